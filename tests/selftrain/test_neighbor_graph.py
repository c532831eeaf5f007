"""Nearest neighbours against sorting all similarities."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.selftrain import neighbor_graph
from spil_d2.selftrain.neighbor_graph import nearest_neighbors


def _embeddings(n: int, seed: int = 0) -> np.ndarray:
    e = np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)
    return e / np.linalg.norm(e, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 64 * 7, 1 << 22])
def test_exact_neighbours(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbor_graph, "_BLOCK_ENTRIES", block)
    e = _embeddings(64)
    indices, similarities = nearest_neighbors(e, 5)
    for i in range(64):
        order = sorted((j for j in range(64) if j != i), key=lambda j: -float(e[i] @ e[j]))[:5]
        assert indices[i].tolist() == order
        assert similarities[i].tolist() == pytest.approx([float(e[i] @ e[j]) for j in order])


def test_faiss_finds_nearly_the_same() -> None:
    pytest.importorskip("faiss")
    e = _embeddings(6000)
    exact, _ = nearest_neighbors(e, 5)
    found, similarities = nearest_neighbors(e, 5, exact_limit=100)
    assert not (found == np.arange(6000)[:, None]).any()
    assert (np.diff(similarities, axis=1) <= 0).all()
    shared = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.tolist())]
    assert np.mean(shared) > 4.5


def test_faiss_among_exact_copies() -> None:
    pytest.importorskip("faiss")
    e = np.repeat(_embeddings(100), 50, axis=0)
    found, _ = nearest_neighbors(e, 3, exact_limit=100)
    assert found.shape == (5000, 3)
    assert not (found == np.arange(5000)[:, None]).any()


def test_without_faiss_the_search_is_exact_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbor_graph, "_faiss", lambda: None)
    e = _embeddings(64)
    assert np.array_equal(nearest_neighbors(e, 5, exact_limit=10)[0], nearest_neighbors(e, 5)[0])
    assert "FAISS is not installed" in caplog.text


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 0), (3, 2)])
def test_fewer_points_than_neighbours(n: int, k: int) -> None:
    indices, similarities = nearest_neighbors(_embeddings(n), 10)
    assert indices.shape == similarities.shape == (n, k)
