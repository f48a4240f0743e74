"""Kills, signals, full and read-only disks, and two processes at once: nothing that was done is lost, nothing is torn.

    python tests/faults/kill.py --kills 1000 --out docs/faults.md

Every case follows from its number: `kill.py --only "kill train" --first 17 --kills 1` repeats the 18th kill of train.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from stage import (
    RESUME,
    TRAIN_ARGS,
    Command,
    Stage,
    assert_all_whole,
    assert_finished,
    assert_nothing_left,
    assert_plain_words,
    draw_moment,
    files,
    is_new_run,
    put_old,
    watched,
)
from zygote import SIGNALS, Call, Moment, call

OUTLIVES = 3.0  # seconds that a worker may outlive its parent
EXPORT = "export run --format safetensors"
PAIRS = {  # two calls at once: names of commands or arguments, and the command whose files they leave
    "train + train": (TRAIN_ARGS, f"{TRAIN_ARGS} --seed 1", "train"),
    "resume + resume": (RESUME, RESUME, "train"),
    "train + export": (TRAIN_ARGS, EXPORT, "train"),
    "resume + export": (RESUME, EXPORT, "train"),
    "reproduce + reproduce": ("reproduce", "reproduce", "reproduce"),
    "export + export": ("export safetensors", "export safetensors", "export safetensors"),
    "export + export, another format": ("export safetensors", "export onnx", "export onnx"),
    "tsne + tsne": ("tsne", "tsne", "tsne"),
    "predict + predict": ("predict", "predict ../../few --csv out.csv", "predict"),
}


class Case:
    """A case of a command: random numbers and a folder of its own, in half of the cases with files of before."""

    def __init__(self, stage: Stage, kind: str, command: Command, number: int, *, old: bool = True):
        self.rng, self.command = Random(f"{kind} {command.name} {number}"), command
        self.folder = stage.case(f"{kind}-{command.name}-{number}")
        self.work, self.out = self.folder / "work", self.folder / "work" / command.out
        if old and command.old and self.rng.random() < 0.5:
            put_old(command, self.out)

    def call(self, args: str | None = None, **kwargs):
        return call(self.folder, *(args or self.command.next_args(self.work)).split(), **kwargs)

    def moment(self, nth: int = 1, **kwargs) -> Moment:
        return draw_moment(self.rng, self.command, nth, **kwargs)

    def assert_whole(self) -> None:
        assert_all_whole(self.out, self.command.new, self.command.old)

    def end(self) -> None:
        """Call the command again, undisturbed."""
        assert_plain_words(self.call(), 0)
        assert_finished(self.out, self.command.new, old=self.command.old)
        assert_nothing_left(self.folder)


def kill(stage: Stage, command: Command, number: int) -> Counter:
    """SIGKILL a command, and what goes on with it, one to three times, and then let it end."""
    case, kills = Case(stage, "kill", command, number), 0
    for nth in range(1, case.rng.randint(1, 3) + 1):
        done = case.call(moment=case.moment(nth))
        assert_plain_words(done, 0, -signal.SIGKILL)
        case.assert_whole()
        if done.code == 0:  # it had ended before the moment
            break
        kills += 1
    case.end()
    return Counter(kills=kills, left=any(map(is_new_run, case.work.iterdir())))


def interrupt(stage: Stage, command: Command, number: int) -> Counter:
    """Ctrl-C, SIGTERM and SIGHUP in turn: a sentence and 128 + n, and the command goes on when it is repeated."""
    case, sent = Case(stage, "signal", command, number), SIGNALS[number % 3]
    done = case.call(moment=case.moment(signal=sent))
    assert_plain_words(done, 0, 128 + sent)
    case.assert_whole()
    assert_nothing_left(case.folder)
    case.end()
    return Counter(refusals=done.code != 0)


def fill(stage: Stage, command: Command, number: int) -> Counter:
    """No file can grow beyond a limit, as on a full disk: a sentence, and what stood there is kept."""
    case = Case(stage, "disk", command, number)
    limit = int(math.exp(case.rng.uniform(0, math.log(max(map(len, command.new.values()))))))
    done = case.call(limit=limit)
    assert_plain_words(done, 0, 1, 2)
    case.assert_whole()
    assert_nothing_left(case.folder)
    case.end()
    return Counter(refusals=done.code != 0)


def lock_out(stage: Stage, command: Command, number: int) -> Counter:
    """Where nothing can be written, and where no folder can be: a sentence, and what stood there is kept."""
    case = Case(stage, "read-only", command, number)
    (case.work / "file").touch()
    for place in ("file/out", "/proc/out"):
        assert_plain_words(case.call(command.args.replace(f" {command.out}", f" {place}")), 1, 2)
    if command.name == "train":
        case.call(moment=Moment(case.rng.randint(command.events // 2, command.events - 10)))
    before = files(case.work)
    with read_only(case.work) as made:
        if made:
            assert_plain_words(case.call(), 1, 2)
            assert files(case.work) == before, "the read-only folder changed"
    case.end()
    return Counter(refusals=2 + made)


def pair(stage: Stage, name: str, number: int) -> Counter:
    """Two calls at once, the second up to one call's time later: each succeeds or says why not, and no look is torn."""
    *both, of = PAIRS[name]
    case = Case(stage, name, stage.commands[of], number, old=False)
    command, results = case.command, [case.command.new]
    if name == "train + train":
        results = [command.new, stage.second]
    elif name == "predict + predict":
        results = [command.new, command.old]
    elif "another" in name:
        results = [stage.commands["export safetensors"].new | command.new]
    args = [stage.commands[each].args if each in stage.commands else each for each in both]
    if RESUME in args:
        case.call(moment=Moment(command.events // 2))
    with watched(case.out, *results):
        calls = [Call(case.folder, args[0].split())]
        time.sleep(case.rng.uniform(0, command.seconds))
        calls.append(Call(case.folder, args[1].split()))
        ends = [each.wait() for each in calls]
    for done in ends:
        assert_plain_words(done, 0, 1, 2)
    assert any(done.code == 0 for done in ends), f"neither of the two succeeded: {ends[0].err}{ends[1].err}"
    assert_finished(case.out, *results)
    assert_nothing_left(case.folder)
    return Counter(refusals=sum(done.code != 0 for done in ends))


def kill_process(stage: Stage, command: Command, number: int) -> Counter:
    """Kill a process that was started as users do, in its imports or beside its workers, which then end as well."""
    case, kills = Case(stage, "process", command, number), 0
    args = [sys.executable, "-m", "mnist_fastai", *command.args.replace("--jobs 1", "--jobs 2").split()]
    env = os.environ | {"TMPDIR": str(case.folder / "tmp")}
    (case.folder / "tmp").mkdir()
    with subprocess.Popen(args, cwd=case.work, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        with suppress(subprocess.TimeoutExpired):
            process.wait(case.rng.uniform(0, 8 + 2 * command.seconds))
        kills, workers = process.poll() is None, descendants(process.pid)
        process.kill()
        ended = time.monotonic()
        while alive := [pid for pid in workers if is_alive(pid)]:
            assert time.monotonic() < ended + OUTLIVES, f"{len(alive)} workers outlive their parent by {OUTLIVES:g} s"
            time.sleep(0.05)
        assert b"Traceback" not in process.stderr.read()
    case.assert_whole()
    case.end()
    return Counter(kills=kills, left=any(map(is_new_run, case.work.iterdir())))


# --- the machine ------------------------------------------------------------------------------------------------------


@contextmanager
def read_only(folder: Path):
    """Have writing in the folder fail; yields False where that cannot be had, for root without the right to mount."""
    if os.geteuid():
        folder.chmod(0o555)
        try:
            yield True
        finally:
            folder.chmod(0o755)
        return
    steps = ["--bind", folder, folder], ["-o", "remount,ro,bind", folder]
    made = [not subprocess.run(["mount", *step], capture_output=True, check=False).returncode for step in steps]
    try:
        yield all(made)
    finally:
        if made[0]:
            subprocess.run(["umount", folder], check=True)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have; none where there is no /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its in parents.items() if its == parent]
    return found[1:]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- the table --------------------------------------------------------------------------------------------------------

KINDS = {"kill": kill, "signal": interrupt, "disk": fill, "read-only": lock_out, "process": kill_process}


def plan(stage: Stage, kills: int) -> dict[str, tuple]:
    """What is tried, by name: a function, its argument, and how many of what are wanted."""
    few = max(1, kills // 50)
    tried = {f"kill {c.name}": (kill, c, {"kills": max(1, round(kills * c.share))}) for c in stage.commands.values()}
    for name in ("train", "reproduce", "export onnx"):
        tried[f"kill a fresh {name}"] = kill_process, stage.commands[name], {"kills": few}
    for kind, n in {"signal": 3 * few, "disk": 2 * few, "read-only": 1}.items():
        tried |= {f"{kind}, {c.name}": (KINDS[kind], c, {"cases": n}) for c in stage.commands.values()}
    return tried | {name: (pair, name, {"cases": few}) for name in PAIRS}


def attempt(stage: Stage, what, subject, wanted: dict[str, int], first: int = 0, limit: int = 10) -> Counter:
    """Cases from number `first` until there are as many as wanted, or `limit` failures, which are said on stderr."""
    ((unit, n),) = wanted.items()
    tally, began, number = Counter(), time.perf_counter(), first
    while tally[unit] < n and tally["failures"] < limit:
        tally["cases"] += 1
        try:
            tally += what(stage, subject, number)
        except AssertionError as e:
            tally["failures"] += 1
            name = getattr(subject, "name", subject)
            print(f"{what.__name__} {name}, case {number}: {e}", file=sys.stderr, flush=True)
        number += 1
    tally["seconds"] = time.perf_counter() - began
    return tally


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills; of the rest, a share of it")
    parser.add_argument("--only", default="", help="only what has this in its name")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each")
    parser.add_argument("--out", type=Path, help="write the table to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        began = time.perf_counter()
        stage = Stage(Path(folder))
        lines = [f"Undisturbed, with the imports: {time.perf_counter() - began:.0f} s"]
        lines += ["| | cases | kills | refusals | failures | s |", "| --- | --: | --: | --: | --: | --: |"]
        total = Counter()
        for name, tried in plan(stage, args.kills).items():
            if args.only in name:
                tally = attempt(stage, *tried, first=args.first)
                total += tally
                lines.append(row(name, tally))
                print(lines[-1], flush=True)
        lines.append(row("**all**", total))
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, "utf-8")


def row(name: str, tally: Counter) -> str:
    cells = [f"{tally[key]:,.0f}" for key in ("cases", "kills", "refusals", "failures", "seconds")]
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main()
