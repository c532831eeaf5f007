"""Artefacts on disk that are whole or absent.

An artefact is a directory with a `manifest.json`. It is written under a hidden temporary name
beside its place and renamed when everything, the manifest last, is on the disk: whoever sees the
name sees all of it. A manifest carries `schema_version` and usually `fingerprint`, a hash of what
the artefact was made from.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from .disk_errors import named_disk_errors
from .reading import UnreadableFileError, read_json, shown

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1
LOCK_NAME = ".run.lock"
_HASH_CHUNK = 1 << 20
# Tells a process from an earlier one with the same number, which containers give again and again.
_PROCESS_MARK = uuid.uuid4().hex[:4]
_held_locks: set[IO] = set()
_TEMPORARY_NAME = re.compile(r"\.tmp-.+-(?P<pid>\d+)-(?P<random>[0-9a-z]+)")


def publish_directory(
    target: Path, write: Callable[[Path], None], manifest: Mapping[str, Any]
) -> Path:
    """Writes a directory so that `target` names all of it or nothing.

    Args:
        target: where the artefact will be; its parents are made. If a complete artefact is there
            already, it is kept, `write` is not called or its result is discarded, and the caller
            decides by `check_fingerprint` whether it is the right one.
        write: puts the files into the (existing, empty) directory that it is given.
        manifest: JSON-like facts; `schema_version` is added.

    Returns:
        `target`.

    Raises:
        FileExistsError: `target` exists and is not a complete artefact.
        DiskError: the disk is full or read-only; nothing of the artefact is left behind.
        Exception: whatever `write` raised, with the path as a note; likewise.
    """
    target = Path(target)
    if is_published(target):
        logger.info("%s is already published and is kept", target)
        return target
    content = to_jsonable({**manifest, "schema_version": SCHEMA_VERSION})
    with named_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        temporary = _temporary(target)
        try:
            temporary.mkdir()
            write(temporary)
            _sync_tree(temporary)
            write_json_atomic(temporary / MANIFEST_NAME, content)
            _move_into_place(temporary, target)
        except BaseException as error:
            error.add_note(f"while publishing {target}; nothing was left there")
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def remove_artefact(directory: Path) -> None:
    """Removes a directory whose name is gone at once: no half of it is seen after a kill."""
    hidden = _temporary(Path(directory))
    os.rename(directory, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(parent: Path) -> None:
    """Removes what processes of this host that were killed in the middle of writing left there."""
    for path in parent.glob(".tmp-*"):
        match = _TEMPORARY_NAME.fullmatch(path.name)
        if not match or not match["random"].startswith(_host_mark()):
            continue
        pid, is_mine = int(match["pid"]), match["random"].startswith(_host_mark() + _PROCESS_MARK)
        if _is_alive(pid) and (pid != os.getpid() or is_mine):
            continue
        logger.info("removing %s, left by a process that has ended", path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_published(directory: Path) -> bool:
    """Whether `directory` is an artefact, that is, holds a manifest."""
    return (Path(directory) / MANIFEST_NAME).is_file()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artefact.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest is no JSON object or of a schema this code does not know.
    """
    path = Path(directory) / MANIFEST_NAME
    try:
        manifest = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: {directory} is not a published artefact; make it again"
        ) from error
    except UnreadableFileError as error:
        raise ValueError(
            f"{path} is not JSON ({error.reason}); remove {directory}, make it again"
        ) from error
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} holds a {type(manifest).__name__}, not an object; make it again")
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {shown(version)}, this code reads {SCHEMA_VERSION}; remove "
            f"{directory} and make it again, or use the version of spil_d2 that wrote it"
        )
    return manifest


def check_fingerprint(directory: Path, expected: str) -> None:
    """Refuses an artefact that was made from something else.

    Args:
        directory: a published artefact.
        expected: `fingerprint(...)` of what it should have been made from.

    Raises:
        ValueError: the manifest's `fingerprint` is another one or absent.
    """
    seen = read_manifest(directory).get("fingerprint")
    if seen != expected:
        raise ValueError(
            f"{directory}: made with fingerprint {seen}, but the present configuration has "
            f"{expected}; use another OUTPUT_DIR, restore the configuration, or remove "
            f"{directory} to make it again"
        )


def fingerprint(obj: Any) -> str:
    """A stable name for a configuration: 16 hex digits of the SHA-256 of its canonical JSON.

    Args:
        obj: nested mappings (string keys, any order), sequences, strings, numbers, bools, None.
            1 and 1.0 differ; a tuple is the list of its items.
    """
    canonical = json.dumps(to_jsonable(obj), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_json_atomic(path: Path, obj: Any) -> None:
    """Writes JSON so that a reader sees the old file or the whole new one.

    Raises:
        TypeError, ValueError: `obj` holds something that JSON has no word for.
        OSError: the disk refused; a file that was at `path` is untouched.
    """
    text = json.dumps(to_jsonable(obj), indent=1, sort_keys=True) + "\n"
    with replaced_file(path) as file:
        file.write(text)


@contextlib.contextmanager
def replaced_file(path: Path, mode: str = "w") -> Iterator[IO]:
    """A new file that takes the place of `path` when the block has ended without an error.

    Whoever looks sees the old file or the whole new one, also after a kill.

    Args:
        path: of the file; its folder is there.
        mode: "w" for text, "wb" for bytes.

    Raises:
        DiskError: the disk is full or read-only; a file that was at `path` is untouched.
    """
    path = Path(path)
    with named_disk_errors(path):
        remove_leftovers(path.parent)
        temporary = _temporary(path)
        try:
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def to_jsonable(obj: Any, where: str = "") -> Any:
    """A copy of `obj` made of dict, list, str, int, float, bool and None only.

    Args:
        obj: may hold numpy scalars and tuples; they become Python numbers and lists.
        where: the place of `obj` in the whole, for messages.

    Raises:
        TypeError: something else, or a key that is not a string.
        ValueError: a float that is not finite.
    """
    if isinstance(obj, np.generic):
        obj = obj.item()
    if isinstance(obj, float) and not math.isfinite(obj):
        raise ValueError(f"{where or 'value'} is {obj}, which JSON cannot hold")
    if obj is None or isinstance(obj, (str, bool, int, float)):
        return obj
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise TypeError(f"{where or 'mapping'}: key {key!r} is not a string")
        return {key: to_jsonable(value, f"{where}.{key}") for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [to_jsonable(value, f"{where}[{i}]") for i, value in enumerate(obj)]
    raise TypeError(
        f"{where or 'value'} is a {type(obj).__name__}; convert it to a str, number, list or dict"
    )


@contextlib.contextmanager
def lock_output_dir(directory: Path) -> Iterator[None]:
    """Holds `directory` for this run; two runs in one output directory would mix their stages.

    The lock belongs to the open file, so the system frees it when the process ends, however it
    ends.

    Raises:
        RuntimeError: another run holds it; names its process id, host and start time.
        DiskError: the directory cannot be written to, or something in it while it is held.
    """
    directory = Path(directory)
    path = directory / LOCK_NAME
    with named_disk_errors(path, names_denied=True):
        directory.mkdir(parents=True, exist_ok=True)
        opened = open(path, "a+", encoding="utf-8")
    with named_disk_errors(directory), opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RuntimeError(
                f"{directory} is in use by another run ({file.read().strip() or 'just starting'}); "
                "wait for it, stop it, or use another directory"
            ) from error
        started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}, started {started}\n")
        file.flush()
        remove_leftovers(directory)
        _held_locks.add(file)
        try:
            yield
        finally:
            _held_locks.discard(file)
            # A forked child has none.
            if not file.closed:
                file.truncate(0)


def _drop_locks() -> None:
    """In a forked child, as a loader's worker is: it may outlive a killed run by seconds."""
    for file in _held_locks:
        file.close()
    _held_locks.clear()


os.register_at_fork(after_in_child=_drop_locks)


def _move_into_place(temporary: Path, target: Path) -> None:
    """Renames a finished directory; keeps a complete one that another process put there first."""
    try:
        os.rename(temporary, target)
    except OSError:
        if is_published(target):
            logger.info("%s was published by another process meanwhile and is kept", target)
            return
        if target.exists():
            raise FileExistsError(
                f"{target} exists and has no {MANIFEST_NAME}: not an artefact; move it away"
            ) from None
        raise
    _sync_directory(target.parent)


def _temporary(target: Path) -> Path:
    return target.with_name(f".tmp-{target.name}-{os.getpid()}-{_random_part()}")


def _random_part() -> str:
    return _host_mark() + _PROCESS_MARK + uuid.uuid4().hex[:8]


def _host_mark() -> str:
    """Six hex digits for this host: a process id says nothing about another machine's processes."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_tree(directory: Path) -> None:
    for root, _, names in os.walk(directory):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_directory(Path(root))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
