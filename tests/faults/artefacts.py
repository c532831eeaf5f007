"""What lies in a folder of artefacts: whether all of it is whole, and whether it is the same."""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from spil_d2.utils.artifacts import MANIFEST_NAME, is_published
from spil_d2.utils.reading import DAMAGED

TEMPORARY = ".tmp-"
_IN_PLACE = re.compile(
    r"log\.txt|metrics\.json|events\.out\..*|config\.yaml|report\.html|\.run\.lock|.*-journal"
)
# Says when and how something was run.
_NOT_COMPARED = re.compile(r"elapsed\.json")
# Names of segments are random.
_RANDOM_NAME = re.compile(r"(\d{6})-[0-9a-f]{8}\b")
_OF_TIME = ("seconds",)
# The files of a result are whole when this one, which is written last, is there.
_RESULTS, _RESULT = "inference", "summary.json"


@dataclass(frozen=True)
class _Seen:
    """A file when it was read: inode, time, size, and a hash of what it says."""

    stamp: tuple[int, int, int]
    digest: str


class Watch:
    """Looks at a folder again and again: what is visible is whole, and what is published stays."""

    def __init__(self, folder: Path, published: tuple[str, ...]):
        """
        Args:
            folder: of a run.
            published: patterns of the directories that must be artefacts with a manifest.
        """
        self._folder = folder
        self._published = published
        self._known: dict[Path, _Seen] = {}
        self.num_checks = 0

    def look(self) -> list[str]:
        """What is wrong with the files that are visible now; each is read once."""
        wrong = [
            f"{path} is visible and has no {MANIFEST_NAME}"
            for pattern in self._published
            for path in self._folder.glob(pattern)
            if path.is_dir() and not path.name.startswith(TEMPORARY) and not is_published(path)
        ]
        before, self._known = self._known, {}
        for path in _visible(self._folder):
            stamp, known = _stamp(path), before.get(path)
            if known is not None and known.stamp == stamp:
                self._known[path] = known
                continue
            if known is not None and is_published(path.parent) and not _is_head(path):
                wrong.append(f"{path} was published before and has changed")
            self.num_checks += 1
            try:
                self._known[path] = _Seen(stamp, digest(path, self._folder.parent))
            except (*DAMAGED, sqlite3.Error, pickle.UnpicklingError, yaml.YAMLError) as error:
                wrong.append(f"{path} cannot be read: {type(error).__name__}: {error}")
        return wrong

    def digests(self) -> dict[str, str]:
        """Relative path -> a hash of what the file said at the last look, without times, places and
        random names."""
        return {
            _RANDOM_NAME.sub(r"\1", str(path.relative_to(self._folder))): one.digest
            for path, one in self._known.items()
            if not _NOT_COMPARED.fullmatch(path.name)
        }


def leftovers(folder: Path) -> list[str]:
    """Temporary names that are still there."""
    return [str(path) for path in folder.rglob(TEMPORARY + "*")]


def differing(first: dict[str, str], second: dict[str, str]) -> list[str]:
    """Paths whose hashes differ, or that are on one side only."""
    return sorted(path for path in first | second if first.get(path) != second.get(path))


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Relative path -> inode, time and size: nothing has touched what has equal ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = _stamp(path)
    return found


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def digest(path: Path, place: Path) -> str:
    """A hash of what a file says; an exception of its parser where it is damaged.

    Args:
        path: of the file.
        place: a folder whose name does not count where JSON has it.
    """
    hashed = hashlib.blake2b()
    if path.suffix == ".json":
        text = _RANDOM_NAME.sub(r"\1", _read_json(path))
        hashed.update(text.replace(str(place), "").encode())
    else:
        _READERS.get(path.suffix, _read_bytes)(path, hashed.update)
    return hashed.hexdigest()


def _visible(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or any(one.startswith(TEMPORARY) for one in parts):
            continue
        if _RESULTS in parts and not (path.parent / _RESULT).is_file():
            continue
        # Detectron2 writes its logs and its copy of the configuration in place; so is an index's
        # configuration, which counts from its manifest on.
        is_begun = path.name == "engine.yaml" and not is_published(path.parent)
        if not (_IN_PLACE.fullmatch(path.name) or is_begun):
            yield path


def _is_head(path: Path) -> bool:
    """Whether a file of an index is replaced as a whole when the index changes."""
    return (path.parent / "engine.yaml").is_file() or path.name == "index.json"


def _read_bytes(path: Path, add: Callable[[bytes], None]) -> None:
    content = path.read_bytes()
    if path.name == "last_checkpoint" and not path.with_name(content.decode()).is_file():
        raise ValueError(f"names {content!r}, which is not there")
    add(content)


def _read_json(path: Path) -> str:
    return json.dumps(_without_times(json.loads(path.read_text())), sort_keys=True)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(one) for k, one in value.items() if k not in _OF_TIME}
    return [_without_times(one) for one in value] if isinstance(value, list) else value


def _read_torch(path: Path, add: Callable[[bytes], None]) -> None:
    _add_value(torch.load(path, map_location="cpu", weights_only=True), add)


def _add_value(value: Any, add: Callable[[bytes], None]) -> None:
    if isinstance(value, dict):
        for key in sorted(value, key=repr):
            add(repr(key).encode())
            _add_value(value[key], add)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _add_value(one, add)
    elif isinstance(value, torch.Tensor):
        add(f"{value.dtype} {tuple(value.shape)}".encode())
        add(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        add(repr(value).encode())


def _read_arrays(path: Path, add: Callable[[bytes], None]) -> None:
    with np.load(path, allow_pickle=False) as data:
        for name in sorted(data.files):
            add(f"{name} {data[name].dtype} {data[name].shape}".encode())
            add(data[name].tobytes())


def _read_array(path: Path, add: Callable[[bytes], None]) -> None:
    add(np.load(path, allow_pickle=False).tobytes())


def _read_gzip(path: Path, add: Callable[[bytes], None]) -> None:
    add(gzip.decompress(path.read_bytes()))


def _read_yaml(path: Path, add: Callable[[bytes], None]) -> None:
    content = path.read_text()
    yaml.safe_load(content)
    add(content.encode())


def _read_table(path: Path, add: Callable[[bytes], None]) -> None:
    with tempfile.TemporaryDirectory() as copies:
        # Of a killed process's table, with the journal by which it is restored.
        for one in (path, path.with_name(path.name + "-journal")):
            if one.exists():
                shutil.copy(one, copies)
        _read_copied_table(Path(copies) / path.name, add)


def _read_copied_table(path: Path, add: Callable[[bytes], None]) -> None:
    connection = sqlite3.connect(path)
    try:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        if answer != "ok":
            raise ValueError(answer)
        for row in connection.execute("SELECT * FROM files ORDER BY id"):
            add(repr(row).encode())
    finally:
        connection.close()


_READERS: dict[str, Callable[[Path, Callable[[bytes], None]], None]] = {
    ".pth": _read_torch,
    ".npz": _read_arrays,
    ".npy": _read_array,
    ".gz": _read_gzip,
    ".yaml": _read_yaml,
    ".sqlite": _read_table,
}
