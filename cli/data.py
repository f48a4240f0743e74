"""`mnist-fa data`: the data sets that have a name. Each command imports what it needs inside itself."""

from typing import Annotated

import typer

from mnist_fastai.errors import InputError
from mnist_fastai.recipes import MNIST, NAMES

from .options import Quiet, completion

data = typer.Typer(help="List, download and check the data sets that --data takes by name.", no_args_is_help=True)
Names = Annotated[list[str], typer.Argument(metavar="NAME...", autocompletion=completion(NAMES))]


@data.command("list")
def list_():
    """List the data sets, and which are here."""
    from mnist_fastai.datasets.named import CACHE, NAMED, cache_folder, find_digests

    print(f"{'name':<16} classes  download  here  images")
    print(f"{MNIST:<16} {10:>7}  {'-':>8}  yes   digits; in the package")
    for name, named in NAMED.items():
        here = "yes" if find_digests(name) else "no"
        print(f"{name:<16} {len(named.classes):>7}  {named.megabytes:>5} MB  {here:<4}  {named.content}")
    print(f"downloaded into {cache_folder()}, or where {CACHE} says")


@data.command()
def get(names: Names, quiet: Quiet = False):
    """Download data sets, and again those that were damaged since."""
    from mnist_fastai.datasets import load_data, named
    from mnist_fastai.errors import MissingData

    for name in _known(names):
        try:
            found = load_data(name)
        except MissingData:
            raise
        except InputError:  # damaged
            if name == MNIST:
                raise
            named.download(name, again=True)
            found = load_data(name)
        print(_line(name, found))


@data.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default="all that are here")] = None,
):
    """Compare the files of data sets with their SHA-256."""
    from mnist_fastai.datasets import load_data, named

    damaged = []
    for name in _known(names or [MNIST, *filter(named.find_digests, NAMES)]):
        if name != MNIST and not named.find_digests(name):
            raise InputError(f"{name} is not in {named.raw_folder(name)}; `mnist-fa data get {name}` downloads it")
        try:
            print(_line(name, load_data(name)))
        except InputError as e:
            damaged.append(str(e))
    if damaged:
        raise InputError("; ".join(damaged))


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in (MNIST, *NAMES):
            raise InputError(f"there is no data set {name!r}; take one of {', '.join([MNIST, *NAMES])}")
    return names


def _line(name: str, data) -> str:
    from mnist_fastai.datasets.named import raw_folder

    where = "the package" if name == MNIST else raw_folder(name)
    images = f"{len(data.train):,} training and {len(data.test):,} test images"
    return f"{name}: {images} of {len(data.classes)} classes, as they should be, in {where}"
