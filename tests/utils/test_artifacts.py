"""Artefacts appear whole or not at all, and locks free themselves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spil_d2.utils import artifacts
from spil_d2.utils.disk_errors import DiskError

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from spil_d2.utils.artifacts import lock_output_dir
with lock_output_dir(Path(sys.argv[1])):
    sys.stdout.write("locked\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


def write_two_files(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "a.txt").write_text("a")
    (directory / "sub" / "b.txt").write_text("b")


def leftovers(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir() if p.name.startswith("."))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_publish_round_trip(tmp_path: Path) -> None:
    target = tmp_path / "stages" / "00"
    seen_while_writing = []

    def write(directory: Path) -> None:
        seen_while_writing.append(target.exists())
        assert directory.parent == target.parent
        assert directory.name.startswith(f".tmp-00-{os.getpid()}-")
        write_two_files(directory)

    facts = {"stage": np.int64(0), "omega": np.float32(0.5), "pairs": (1, 2), "new": np.bool_(True)}
    assert artifacts.publish_directory(target, write, facts) == target
    assert seen_while_writing == [False]
    assert artifacts.is_published(target)
    assert (target / "sub" / "b.txt").read_text() == "b"
    assert artifacts.read_manifest(target) == {
        "schema_version": 1, "stage": 0, "omega": 0.5, "pairs": [1, 2], "new": True,
    }  # fmt: skip
    assert leftovers(target.parent) == []


def test_a_complete_target_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "00"
    artifacts.publish_directory(target, write_two_files, {"who": "first"})

    def must_not_run(directory: Path) -> None:
        raise AssertionError("written although published")

    artifacts.publish_directory(target, must_not_run, {"who": "second"})
    assert artifacts.read_manifest(target)["who"] == "first"


def test_the_slower_of_two_writers_discards_its_own(tmp_path: Path) -> None:
    target = tmp_path / "00"

    def write_while_another_publishes(directory: Path) -> None:
        artifacts.publish_directory(target, write_two_files, {"who": "fast"})
        write_two_files(directory)

    artifacts.publish_directory(target, write_while_another_publishes, {"who": "slow"})
    assert artifacts.read_manifest(target)["who"] == "fast"
    assert leftovers(tmp_path) == []


def test_a_directory_that_is_no_artefact_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "00"
    target.mkdir()
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="00.*not an artefact"):
        artifacts.publish_directory(target, write_two_files, {})
    assert (target / "thesis.txt").read_text() == "precious"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [OSError("odd"), ValueError("bad"), KeyboardInterrupt()])
def test_a_failing_write_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "00"

    def write(directory: Path) -> None:
        write_two_files(directory)
        raise error

    with pytest.raises(type(error)) as caught:
        artifacts.publish_directory(target, write, {})
    assert caught.value is error
    assert any(str(target) in note for note in error.__notes__)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_manifest_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(DiskError, match="00 cannot be written .No space left.* Make room"):
        artifacts.publish_directory(tmp_path / "00", write_two_files, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_removed_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = artifacts.publish_directory(tmp_path / "00", write_two_files, {})

    def killed(directory: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(artifacts.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            artifacts.remove_artefact(target)
    assert not target.exists() and len(leftovers(tmp_path)) == 1
    artifacts.remove_artefact(artifacts.publish_directory(target, write_two_files, {}))
    assert not target.exists()


def test_a_file_that_is_replaced_is_the_old_one_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    with artifacts.replaced_file(path) as file:
        file.write("old")
    with pytest.raises(KeyboardInterrupt), artifacts.replaced_file(path, "wb") as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and leftovers(tmp_path) == []


def test_only_the_leftovers_of_dead_processes_of_this_host_go(tmp_path: Path) -> None:
    ours, dead = artifacts._random_part(), dead_pid()
    host, mark = artifacts._host_mark(), artifacts._PROCESS_MARK
    # In a container every start may have the same number.
    before_us = tmp_path / f".tmp-00-{os.getpid()}-{host}{mark[::-1]}x12345678"
    of_us = tmp_path / f".tmp-00-{os.getpid()}-{ours}"
    file = tmp_path / f".tmp-a.json-{dead}-{ours}"
    file.touch()
    stale = tmp_path / f".tmp-00-{dead}-{ours}"
    running = tmp_path / f".tmp-00-{os.getppid()}-{ours}"
    elsewhere = tmp_path / f".tmp-00-{dead}-zzzzzz01234567"
    unrelated = tmp_path / ".tmp-notes"
    for path in (stale, running, elsewhere, unrelated, before_us, of_us):
        path.mkdir()
        (path / "half").write_text("x")
    artifacts.publish_directory(tmp_path / "01", write_two_files, {})
    assert not stale.exists() and not before_us.exists() and not file.exists()
    assert of_us.exists()
    assert running.exists() and elsewhere.exists() and unrelated.exists()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "is missing"),
        ('{"schema_version": 1', ValueError, "is not JSON"),
        ("[1]", ValueError, "holds a list"),
        ('{"schema_version": 99}', ValueError, "schema_version is 99.*reads 1"),
        ("{}", ValueError, "schema_version is None"),
    ],
)
def test_bad_manifests(
    tmp_path: Path, text: str | None, error: type[Exception], message: str
) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(error, match=message):
        artifacts.read_manifest(tmp_path)


def test_check_fingerprint_names_both_values_and_the_place(tmp_path: Path) -> None:
    target = artifacts.publish_directory(tmp_path / "00", write_two_files, {"fingerprint": "aaaa"})
    artifacts.check_fingerprint(target, "aaaa")
    with pytest.raises(ValueError, match="00: made with fingerprint aaaa.*bbbb.*OUTPUT_DIR"):
        artifacts.check_fingerprint(target, "bbbb")


def test_fingerprint_is_the_hash_of_sorted_compact_json() -> None:
    obj = {"b": (1, np.float64(2.5)), "a": {"y": None, "x": "é"}}
    text = '{"a":{"x":"\\u00e9","y":null},"b":[1,2.5]}'
    assert artifacts.fingerprint(obj) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert artifacts.fingerprint({"a": 1, "b": 2}) == artifacts.fingerprint({"b": 2, "a": 1})
    assert artifacts.fingerprint({"a": 1}) != artifacts.fingerprint({"a": 2})


@pytest.mark.parametrize(
    ("obj", "error", "message"),
    [
        ({"a": [0, {1, 2}]}, TypeError, r"\.a\[1\] is a set"),
        ({"a": {1: 2}}, TypeError, r"\.a: key 1"),
        ({"a": np.zeros(2)}, TypeError, r"\.a is a ndarray"),
        ({"a": float("nan")}, ValueError, r"\.a is nan"),
    ],
)
def test_what_json_cannot_hold_is_named(obj: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        artifacts.to_jsonable(obj)


def test_file_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert artifacts.file_sha256(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def test_write_json_atomic_keeps_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    artifacts.write_json_atomic(path, {"a": np.int32(1)})
    assert json.loads(path.read_text()) == {"a": 1}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        artifacts.write_json_atomic(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert leftovers(tmp_path) == []


def test_the_lock_refuses_a_second_run_and_is_freed(tmp_path: Path) -> None:
    output = tmp_path / "new" / "output"
    with artifacts.lock_output_dir(output):
        with pytest.raises(RuntimeError, match=rf"output.*pid {os.getpid()} on .*started 20"):
            with artifacts.lock_output_dir(output):
                pass
    with artifacts.lock_output_dir(output):
        pass


def test_a_killed_run_frees_the_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match=f"pid {process.pid} on "):
            with artifacts.lock_output_dir(tmp_path):
                pass
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with artifacts.lock_output_dir(tmp_path):
        pass
