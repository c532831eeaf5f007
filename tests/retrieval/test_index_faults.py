"""An index of regions that was killed, could not write, or is damaged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spil_d2.retrieval.index import (
    INDEX_BACKENDS,
    open_region_index,
    segmented,
    segments,
)

from .index_cases import LIBRARIES, add, check, create, make_gallery, make_queries

KILLED = """
import os, signal, sys
import numpy as np
from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import open_region_index, segments

def change(place):
    index = open_region_index(place)
    index.delete([0, 1])
    new = np.eye(8, dtype=np.float32)
    index.add([500], [Regions(new[:, :4], new[:, 0], new)])
    segments.write_json_atomic = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    index.compact()

for place in sys.argv[1:]:
    child = os.fork()
    if not child:
        change(place)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, place
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes of all backends after a process was killed between writing and publishing."""
    folder = tmp_path_factory.mktemp("killed")
    names = [name for name in INDEX_BACKENDS if importlib.util.find_spec(LIBRARIES[name])]
    for name in names:
        with create(name, folder / name) as index:
            add(index, make_gallery(30))
            index.persist()
    places = [str(folder / name) for name in names]
    ended = subprocess.run([sys.executable, "-c", KILLED, *places], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_killed_before_publication_nothing_is_lost(backend: str, killed: Path) -> None:
    gallery, queries = make_gallery(30), make_queries(1)
    folder = killed / backend / "segments"
    assert len(list(folder.iterdir())) == 2
    with open_region_index(killed / backend) as again:
        check(again.search([0], queries, 30)[0], gallery, queries[0], 30)
        new = make_gallery(2, first=500)
        add(again, new)
        again.compact()
        check(again.search([0], queries, 40)[0], gallery | new, queries[0], 40)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("step", ["write_segment", "read_segment"])
def test_a_failed_persist_can_be_tried_again(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    gallery, queries = make_gallery(10), make_queries(1)
    with create(backend, tmp_path / "index") as index:
        add(index, gallery)
        with monkeypatch.context() as patch:
            patch.setattr(segmented, step, fail)
            with pytest.raises(OSError, match="no space"):
                index.persist()
        check(index.search([0], queries, 10)[0], gallery, queries[0], 10)
        index.persist()
        check(index.search([0], queries, 10)[0], gallery, queries[0], 10)


def test_damage_is_named(backend: str, tmp_path: Path) -> None:
    place = tmp_path / "index"
    with pytest.raises(FileNotFoundError, match="holds no region index"):
        open_region_index(place)
    with create(backend, place) as index:
        add(index, make_gallery(5))
        index.persist()
    with pytest.raises(FileExistsError, match="already"):
        create(backend, place)
    other = next(one for name, one in INDEX_BACKENDS.items() if name != backend)
    with pytest.raises(ValueError, match=f"backend '{backend}'"):
        other.open(place)
    (segment,) = (place / "segments").iterdir()
    regions = segment / segments.REGIONS_NAME
    whole = regions.read_bytes()
    for damage in (whole[:100], b""):
        regions.write_bytes(damage)
        with pytest.raises(ValueError, match=str(place)):
            open_region_index(place)
    regions.unlink()
    with pytest.raises(ValueError, match=str(place)):
        open_region_index(place)
    head = json.loads((place / segments.HEAD_NAME).read_text())
    (place / segments.HEAD_NAME).write_text(json.dumps({**head, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        open_region_index(place)
    (place / segments.HEAD_NAME).write_text(json.dumps({**head, "backend": "slow"}))
    with pytest.raises(ValueError, match=r"'slow' is none of \['exact'"):
        open_region_index(place)


def test_files_of_two_segments_are_refused(backend: str, tmp_path: Path) -> None:
    place = tmp_path / "index"
    with create(backend, place) as index:
        add(index, make_gallery(30))
        index.persist()
        add(index, make_gallery(5, first=100))
        index.persist()
    one, two = sorted((place / "segments").iterdir())
    (one / segments.REGIONS_NAME).write_bytes((two / segments.REGIONS_NAME).read_bytes())
    with pytest.raises(ValueError, match="not of one region index"):
        open_region_index(place)
