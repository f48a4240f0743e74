"""Several runs → one run, whose model gives the mean of their probabilities."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from .datasets import Data
from .errors import InputError
from .learner import check_data, find_device, load_run, read_data
from .models import Ensemble
from .run import Run, check_new
from .train import Passed, start


def ensemble(
    runs: Iterable[str | Path],
    out: str | Path | None = None,  # the run directory; a new one below ./runs by default
    *,
    data: Data | str | Path | None = None,  # where the runs' data is now
    device: str = "auto",
    allow_import: bool = False,  # of modules that the runs name, which are code
    console: Console | None = None,
) -> Run:
    """Write finished runs as one, which every command takes as any other; the members' weights are in it.

    Its logits are the logarithms of the mean probabilities. Raises InputError where there are fewer than two, where
    they differ in classes, images or normalisation, and for a run to which `fit` was given a model.
    """
    if out is not None:
        check_new(out)
    members = [Run(path) for path in runs]
    if len(members) < 2:
        raise InputError(f"an ensemble has two or more runs, not {len(members)}; name more")
    first = members[0]
    for run in members:
        run.require_finished()
        if "model" in run.facts.get("passed", {}) or "members" in run.facts:
            raise InputError(f"{run.path} has a model that its recipe does not name; leave it out")
        for what in ("classes", "splits", "input"):
            if run.facts.get(what) != first.facts.get(what):
                raise InputError(f"{run.path} and {first.path} differ in their {what}; leave one out")
    models = [load_run(run.path, device="cpu", allow_import=allow_import).model for run in members]
    names = {run.recipe.name for run in members}
    name = f"{len(members)} x {names.pop()}" if len(names) == 1 else f"ensemble of {len(members)}"
    recipe = replace(first.recipe, name=name, num_epochs=0, init="torch", opt="adam", augment="none")
    if isinstance(data, Data):
        data = data.hold_out(recipe.valid_fraction) if recipe.valid_fraction else data
        check_data(first, data)
    else:
        data = read_data(first, data)
    model = Ensemble(models, [run.recipe.to_dict() for run in members])
    passed = Passed(model=model, normalize=first.normalize)
    return start(recipe, data, out, passed, find_device(device), console)
