"""The same package with only the dependencies that reading digits needs, 0.4 GB instead of 6: `pip install ./light`.

Everything but the name and the list of dependencies is that of setup.cfg.
"""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

NEEDED = {"scipy", "pillow", "scikit-learn", "onnxruntime", "typer"}

here = Path(__file__).parent
config = ConfigParser()
config.read(here.parent / "setup.cfg", encoding="utf-8")
metadata, options = config["metadata"], config["options"]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


folders = dict(re.split(r"\s*=\s*", line) for line in lines(options["package_dir"]))
setup(
    name=f"{metadata['name']}-reader",
    version=re.search(r'__version__ = "(.+)"', (here.parent / "mnist_fastai" / "__init__.py").read_text("utf-8"))[1],
    description="Read handwritten digits: mnist-fastai without its training",
    license_expression=metadata["license_expression"],
    python_requires=options["python_requires"],
    packages=lines(options["packages"]),
    package_dir={"mnist_fastai": "../mnist_fastai"} | {name: f"../{folder}" for name, folder in folders.items()},
    package_data={name: re.split(r",\s*", value) for name, value in config["options.package_data"].items()},
    install_requires=[line for line in lines(options["install_requires"]) if re.match(r"[\w-]+", line)[0] in NEEDED],
    entry_points={"console_scripts": lines(config["options.entry_points"]["console_scripts"])},
)
