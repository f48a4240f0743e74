"""A sweep by Optuna: hyperparameters are chosen on held-out training images, and unpromising runs are pruned.

    pip install -e '.[optuna]'
    python examples/sweep.py --trials 30

A repeated call adds trials to the study in sweep/study.db; calls at the same time share it. Each trial leaves a run
directory, sweep/<number>; that of a pruned one is not finished.
"""

import argparse
from pathlib import Path

import optuna
from optuna_integration import FastAIPruningCallback

from mnist_fastai import Recipe, fit

OUT = Path("sweep")

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=30)
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--data", default="mnist")
args = parser.parse_args()


def objective(trial: optuna.Trial) -> float:
    recipe = Recipe(
        arch="lenet",
        opt=trial.suggest_categorical("opt", ["adam", "nesterov"]),
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        schedule=trial.suggest_categorical("schedule", ["constant", "one-cycle"]),
        num_epochs=args.epochs,
        data=args.data,
        valid_fraction=0.1,  # the test images choose nothing, and `fit` refuses to prune by them
    )
    run = fit(recipe, cbs=FastAIPruningCallback(trial, monitor="accuracy"), out=OUT / str(trial.number))
    return run.metrics["accuracy"]


OUT.mkdir(exist_ok=True)
study = optuna.create_study(
    storage=f"sqlite:///{OUT / 'study.db'}", study_name="lenet", load_if_exists=True, direction="maximize",
    pruner=optuna.pruners.MedianPruner(n_startup_trials=3),
)  # fmt: skip
study.optimize(objective, n_trials=args.trials)
best = study.best_trial
print(f"trial {best.number} is best, {best.value:.2%} of the held-out images: {best.params}")
print(f"train it on all images: mnist-fa train --recipe {OUT / str(best.number)} --valid-fraction 0")
