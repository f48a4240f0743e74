"""The scripts of examples/, in a short form."""

from pathlib import Path

import optuna
from zygote import call

from mnist_fastai import Run

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_a_sweep_prunes_and_chooses_on_held_out_images_and_goes_on(tmp_path, folder):
    (sweep := tmp_path / "work" / "sweep").mkdir(parents=True)
    where = {"study_name": "lenet", "storage": f"sqlite:///{sweep / 'study.db'}"}
    study = optuna.create_study(direction="maximize", **where)
    for rate in (0.001, 0.002, 0.003, 1e-8):  # the last learns nothing
        study.enqueue_trial({"opt": "adam", "learning_rate": rate, "schedule": "constant"})
    for trials in (4, 1):
        done = call(tmp_path, "--trials", trials, "--epochs", "2", "--data", folder, script=str(EXAMPLES / "sweep.py"))
        assert done.code == 0, done.err
    study = optuna.load_study(**where)
    assert len(study.trials) == 5
    pruned = [t for t in study.trials if t.state == optuna.trial.TrialState.PRUNED]
    assert study.trials[3] in pruned
    for trial in study.trials:
        run = Run(sweep / str(trial.number))
        assert run.recipe.learning_rate == trial.params["learning_rate"]
        assert run.finished == (trial not in pruned)
        assert trial in pruned or (run.metrics["split"], run.metrics["accuracy"]) == ("held out", trial.value)
        assert trial not in pruned or len(run.history) == len(trial.intermediate_values) < 2
    assert done.out.endswith(f"mnist-fa train --recipe sweep/{study.best_trial.number} --valid-fraction 0\n")
    again = call(tmp_path, *done.out.split("mnist-fa ")[-1].split(), "-n", "1", "--out", "again", "-q")
    assert again.code == 0, again.err
    assert Run(tmp_path / "work" / "again").metrics["split"] == "test"
