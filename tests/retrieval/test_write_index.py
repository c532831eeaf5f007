"""An index that is written as it is made is the one that is made in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from spil_d2.retrieval import Regions, build_index, open_region_index, write_index

COUNT, DIMENSION = 41, 12


def _gallery() -> list[dict]:
    return [{"image_id": 100 - i, "file_name": str(i)} for i in range(COUNT)]


def _regions(name: str) -> Regions:
    rng = np.random.default_rng(int(name))
    count = int(rng.integers(1, 6))
    embeddings = rng.normal(0.3, 1, (count, DIMENSION)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return Regions(rng.uniform(0, 9, (count, 4)).astype(np.float32), embeddings[:, 0], embeddings)


def _map(files: Sequence[Sequence[str]]) -> Iterator[list[Regions]]:
    return ([_regions(name) for name in some] for some in files)


@pytest.mark.parametrize("is_centred", [False, True])
@pytest.mark.parametrize("held", [1, 30, 10_000])
def test_a_written_index_is_the_one_built_in_memory(
    is_centred: bool, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["spil_d2.retrieval.search"], "_HELD_REGIONS", held)
    done: list[tuple[int, int]] = []
    write_index(
        None,
        _gallery(),
        tmp_path / "written",
        lambda *counts: done.append(counts),
        is_centred=is_centred,
        map_batches=_map,
    )
    build_index(None, _gallery(), is_centred=is_centred, map_batches=_map).save(tmp_path / "saved")
    written, saved = (open_region_index(tmp_path / name) for name in ("written", "saved"))
    assert written.is_centred == is_centred and len(written) == COUNT
    np.testing.assert_array_equal(written.image_ids, saved.image_ids)
    for record in _gallery():
        one, other = (index.regions_of(record["image_id"]) for index in (written, saved))
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.saliency, other.saliency)
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-6)
    assert done[-1] == (COUNT, COUNT) and len(done) == 6
    left = {path.name for path in (tmp_path / "written").iterdir() if path.name[0] != "."}
    assert left == {"index.json", "segments"}


def test_what_is_written_first_is_not_centred_twice(tmp_path: Path) -> None:
    write_index(None, _gallery(), tmp_path, is_centred=True, map_batches=_map)
    with open_region_index(tmp_path) as index:
        for record in _gallery():
            found = index.regions_of(record["image_id"]).embeddings
            wanted = _regions(record["file_name"]).embeddings
            np.testing.assert_allclose(found, wanted, atol=2e-3)
