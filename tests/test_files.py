"""Files are whole or not there, folders have one owner at a time, and what killed processes leave is removed."""

import inspect
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import assert_one_sentence, full_disk, python, tree

from mnist_fastai import files
from mnist_fastai.errors import InputError, RunError
from mnist_fastai.files import owned, read_bytes, read_json, temporary_folder, walk, write_bytes, write_json, write_text


def refused(error, call, *args, **kwargs) -> str:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


def start(code: str, *args) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "no file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: os.mkfifo(path), "no regular file"),  # which nobody writes to
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to(path.name), "cannot be read"),
        (lambda path: path.write_bytes(b"x" * 2000), "too large"),
    ],
)
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path, make, said):
    make(tmp_path / "file")
    assert said in refused(InputError, read_bytes, tmp_path / "file", 1000)


@pytest.mark.parametrize("name", ["x" * 300, "file/below", "nul\0character"])
def test_a_path_that_can_be_none_is_no_file(tmp_path, name):
    (tmp_path / "file").touch()
    refused(InputError, read_bytes, tmp_path / name)


def test_a_named_pipe_is_read_where_it_may_be(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"through",))
    writer.start()
    assert read_bytes(tmp_path / "pipe", pipe=True) == b"through"
    writer.join()


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"a": ' * 100_000, b"1" * 5000])
def test_what_is_no_json_object_is_one_sentence(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    refused(InputError, read_json, tmp_path / "file")


def test_links_into_a_folder_above_are_not_followed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "here").symlink_to(".")
    (tmp_path / "a" / "same").symlink_to("b")
    (tmp_path / "a" / ".hidden").touch()
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "broken").symlink_to("nowhere")
    assert [str(p.relative_to(tmp_path / "a")) for p in walk(tmp_path / "a")] == ["b/1", "same/1"]


def test_what_cannot_be_looked_at_is_told_and_the_rest_follows(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    look = Path.stat

    def stat(path, **kwargs):
        if path.name == "b":
            raise OSError(5, "Input/output error", str(path))
        return look(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)
    errors = []
    assert [p.name for p in walk(tmp_path, errors.append)] == ["a", "c"]
    assert [e.filename for e in errors] == [str(tmp_path / "b")]
    with pytest.raises(OSError, match="Input"):
        list(walk(tmp_path))
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "missing"))


def test_folders_may_be_nested_deeper_than_calls_may(tmp_path):
    (tmp_path / "/".join("d" * 200)).mkdir(parents=True)
    (tmp_path / "/".join("d" * 200) / "1").touch()
    before = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack(0)) + 100)
        names = [path.name for path in walk(tmp_path)]
    finally:
        sys.setrecursionlimit(before)
    assert names == ["1"]


# --- writing ------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    (tmp_path / "file").write_text("before")
    write_bytes(tmp_path / "file", b"after")
    assert tree(tmp_path) == {"file": b"after"}


def test_on_a_full_disk_the_old_file_stays(tmp_path):
    write_json(tmp_path / "file", "before")
    before = tree(tmp_path)
    with full_disk(1000):
        error = refused(RunError, write_json, tmp_path / "file", "x" * 2000)
    assert str(tmp_path / "file") in error
    assert "old file is kept" in error
    assert tree(tmp_path) == before


def test_a_reader_sees_the_old_content_or_the_new_one_while_two_write(tmp_path):
    path, stop = tmp_path / "file", threading.Event()
    contents = [bytes([c]) * 300_000 for c in b"ab"]
    write_bytes(path, contents[0])

    def write(content):
        while not stop.is_set():
            write_bytes(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    seen = [path.read_bytes() in contents for _ in range(300)]
    stop.set()
    for writer in writers:
        writer.join()
    assert all(seen)
    assert set(tree(tmp_path)) == {"file"}


def test_an_owner_removes_nothing_that_is_being_written(tmp_path):
    stop = threading.Event()

    def sweep():
        while not stop.is_set():
            with owned(tmp_path):
                pass

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    for n in range(100):
        write_bytes(tmp_path / f"file{n}", b"x")
    stop.set()
    sweeper.join()
    assert len(list(tmp_path.glob("file*"))) == 100


def test_devices_and_pipes_are_written_to_and_stay_what_they_are(tmp_path):
    before = os.stat("/dev/null")
    write_bytes("/dev/null", b"x")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_bytes(tmp_path / "pipe", b"through")
    reader.join()
    assert read == [b"through"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert "No space left" in refused(RunError, write_bytes, "/dev/full", b"x")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_a_file_below_dev_shm_is_one_as_any_other():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for content in (b"old", b"new"):
            write_bytes(f"{folder}/file", content)
        assert Path(folder, "file").read_bytes() == b"new"


@pytest.mark.parametrize("target", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, target):
    (tmp_path / "a").mkdir()
    if target:
        (tmp_path / "a" / "target").write_text("before")
    (tmp_path / "link").symlink_to("a/target")
    write_bytes(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path / "a") == {"target": b"after"}


@pytest.mark.parametrize("name", ["folder", "file/below", "missing/file", "x" * 300])
def test_what_cannot_be_written_is_one_sentence(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = tree(tmp_path)
    assert "cannot write" in refused(RunError, write_bytes, tmp_path / name, b"x")
    assert tree(tmp_path) == before


def test_a_name_of_250_characters_can_be_written(tmp_path):
    write_bytes(tmp_path / ("x" * 250), b"x")
    assert set(tree(tmp_path)) == {"x" * 250}


def test_text_that_is_no_unicode_is_written_as_what_it_is(tmp_path):
    write_text(tmp_path / "file", os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "file").read_text("utf-8") == r"caf\udce9"


# --- folders ------------------------------------------------------------------------------------------------------


def test_one_at_a_time_owns_a_folder(tmp_path):
    inside, most = [0], []

    def work():
        with owned(tmp_path / "folder"):
            inside[0] += 1
            most.append(inside[0])
            time.sleep(0.01)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 10


@pytest.mark.parametrize("wait", [True, False])
def test_another_process_that_owns_the_folder_is_waited_for_or_named(tmp_path, caplog, wait):
    code = """
import sys, time
from mnist_fastai.files import owned
with owned(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(1)
"""
    folder = tmp_path / "folder"
    other = start(code, folder)
    assert other.stdout.readline() == "owned\n"
    if wait:
        with owned(folder):
            assert other.wait(timeout=5) == 0
        (said,) = caplog.messages
        assert_one_sentence(said)
        assert str(folder) in said
    else:
        assert str(folder) in refused(InputError, owned(folder, wait=False).__enter__)
    other.communicate()


def test_an_owner_removes_what_was_left_half_written_and_a_folder_in_which_nothing_was_written(tmp_path):
    done = python("-c", "import os; print(os.getpid())", cwd=tmp_path)
    (tmp_path / files.PARTIAL.format(f"{done.stdout.strip()}-0123")).touch()  # of a process that has ended
    (tmp_path / ".another.partial").touch()
    with owned(tmp_path):
        assert set(tree(tmp_path)) == {".another.partial", files.LOCK}
    with owned(tmp_path / "new" / "folder"):
        pass
    assert set(tree(tmp_path)) == {".another.partial"}


def test_ctrl_c_as_an_owner_ends_leaves_no_lock(tmp_path, monkeypatch):
    unlink, presses = os.unlink, [KeyboardInterrupt]  # found by tests/faults/kill.py

    def interrupted(path, **kwargs):
        if presses and str(path).endswith(files.LOCK):
            raise presses.pop()
        unlink(path, **kwargs)

    monkeypatch.setattr(files.os, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt), owned(tmp_path):
        pass
    assert tree(tmp_path) == {}
    presses.append(KeyboardInterrupt)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt), temporary_folder():
        pass
    assert tree(tmp_path) == {}
    with owned(tmp_path, wait=False):
        pass


def test_a_killed_owner_owns_nothing(tmp_path):
    code = "import sys, time, mnist_fastai.files as f\nwith f.owned(sys.argv[1]): print(1, flush=True); time.sleep(9)"
    other = start(code, tmp_path)
    other.stdout.readline()
    other.kill()
    other.communicate()
    with owned(tmp_path, wait=False):
        pass
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("place", ["file/below", "/proc/nowhere", "x" * 300])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    refused(InputError, owned(tmp_path / place).__enter__)


def test_a_temporary_folder_of_a_killed_process_is_removed_by_the_next(tmp_path, monkeypatch):
    code = "import os, mnist_fastai.files as f\nwith f.temporary_folder(): os.kill(os.getpid(), 9)"
    done = python("-c", code, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert done.returncode == -signal.SIGKILL
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    (left,) = tmp_path.iterdir()
    (tmp_path / f"{files.TEMPORARY}1").mkdir()  # of one that was killed before it had its lock, or after
    (tmp_path / f"{files.TEMPORARY}2").mkdir()
    (tmp_path / f"{files.TEMPORARY}2" / "file").touch()  # not one of these
    with temporary_folder() as folder, temporary_folder() as another:
        assert {p.name for p in tmp_path.iterdir()} == {folder.name, another.name, f"{files.TEMPORARY}2"}
        assert left not in (folder, another)
    assert {p.name for p in tmp_path.iterdir()} == {f"{files.TEMPORARY}2"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_worker_ends_with_the_process_that_it_works_for(tmp_path, gone, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # other tests' processes remove what is abandoned in theirs
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    parent = start("from mnist_fastai.files import life; print(life(), flush=True); import time; time.sleep(60)")
    path = parent.stdout.readline().strip()
    with parent if gone else nullcontext():
        if gone:  # before the worker looks
            parent.kill()
    worker = start(
        "import sys, time; from mnist_fastai.files import end_with; end_with(sys.argv[1]); time.sleep(60)", path
    )
    if not gone:
        time.sleep(0.5)
        assert worker.poll() is None
        parent.kill()
        parent.communicate()
    began = time.monotonic()
    assert worker.wait(timeout=10) == 1
    assert time.monotonic() - began < 3  # seconds
    worker.communicate()
    assert Path(path).parent.exists()
    with temporary_folder():
        assert not Path(path).parent.exists()
