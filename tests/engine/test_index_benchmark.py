"""The benchmark of the index backends on a small gallery."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spil_d2.engine import index_benchmark
from spil_d2.engine.index_benchmark import SyntheticGallery, benchmark_indexes


def test_the_gallery_is_as_large_as_asked() -> None:
    gallery = SyntheticGallery(30_000, 8, 5)
    ids: list[int] = []
    rows = []
    for some, regions in gallery.batches():
        ids += some
        rows += [one.embeddings for one in regions]
    assert ids == list(range(len(rows)))
    embeddings = np.concatenate(rows)
    assert embeddings.shape == (30_000, 8)
    assert 9 < len(embeddings) / len(ids) < 11
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert gallery.queries().shape == (5, 8)


def test_backends_become_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index_benchmark, "_in_process", lambda function, *args: function(*args))
    runs = [
        ("exact", [{}], 2000),
        ("faiss", [{"probed": 1.0}, {}], 2000),
        ("faiss", [{}], 1000),
    ]
    results = benchmark_indexes(SyntheticGallery(2000, 8, 5), runs, tmp_path, k=10)
    assert [(one.backend, one.regions) for one in results] == [
        ("exact", 2000),
        ("faiss probed=1.0", 2000),
        ("faiss", 2000),
        ("exact", 1000),
        ("faiss", 1000),
    ]
    assert [one.recall for one in results] == [1] * 5
    assert all(one.single_ms > 0 and one.disk_mb > 0 for one in results)
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["k"] == 10 and len(content["results"]) == 5
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len(lines) == 7 and "recall@10" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.json", "table.md"]
