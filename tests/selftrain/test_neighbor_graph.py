"""Nearest neighbours against sorting all similarities."""

from __future__ import annotations

from types import SimpleNamespace

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
    assert indices.dtype == np.int64 and similarities.dtype == np.float32
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


class FakeIndex:
    """Answers a search with given rows, as FAISS's index of cells does."""

    answers: tuple[np.ndarray, np.ndarray]

    def __init__(self, quantizer: object, dimension: int, num_lists: int, metric: str):
        assert metric == "inner product"
        self.cp = SimpleNamespace()

    def train(self, embeddings: np.ndarray) -> None:
        """Nothing to learn."""

    add = train

    def search(self, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """FAISS takes whole numbers alone."""
        assert isinstance(self.nprobe, int) and self.nprobe > 0
        return tuple(one[:, :k] for one in self.answers)


@pytest.mark.parametrize("count", [4, 20_000])
def test_a_point_that_faiss_does_not_find_itself_loses_its_farthest_neighbour(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    indices = np.zeros((count, 3), np.int64)
    indices[:4] = [[0, 1, 2], [0, 2, 3], [3, 1, 2], [1, 2, -1]]
    indices[4:] = np.arange(4, count)[:, None] + [0, -1, -2]
    values = np.tile(np.array([0.9, 0.8, 0.7], np.float32), (count, 1))
    fake = SimpleNamespace(
        IndexFlatIP=lambda dimension: None,
        IndexIVFFlat=FakeIndex,
        METRIC_INNER_PRODUCT="inner product",
    )
    monkeypatch.setattr(FakeIndex, "answers", (values, indices), raising=False)
    monkeypatch.setattr(neighbor_graph, "_faiss", lambda: fake)
    found, similarities = nearest_neighbors(np.ones((count, 2), np.float32), 2, exact_limit=3)
    assert found[:4].tolist() == [[1, 2], [0, 2], [3, 1], [1, 2]]
    assert similarities[:4] == pytest.approx(
        np.array([[0.8, 0.7], [0.9, 0.8], [0.9, 0.8], [0.9, 0.8]])
    )
    assert (found[4:] == np.arange(4, count)[:, None] + [-1, -2]).all()


def test_without_faiss_the_search_is_exact_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbor_graph, "_faiss", lambda: None)
    e = _embeddings(64)
    assert np.array_equal(nearest_neighbors(e, 5, exact_limit=10)[0], nearest_neighbors(e, 5)[0])
    assert caplog.messages == ["FAISS is not installed: comparing all pairs of 64 embeddings"]
    # As many as are compared without it.
    nearest_neighbors(e, 5, exact_limit=64)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 0), (3, 2)])
def test_fewer_points_than_neighbours(n: int, k: int) -> None:
    indices, similarities = nearest_neighbors(_embeddings(n), 10)
    assert indices.shape == similarities.shape == (n, k)
    assert indices.dtype == np.int64 and similarities.dtype == np.float32


def test_double_precision_is_compared_in_single() -> None:
    e = _embeddings(64)
    found, similarities = nearest_neighbors(np.asfortranarray(e, np.float64), 5)
    assert np.array_equal(found, nearest_neighbors(e, 5)[0]) and similarities.dtype == np.float32
    assert len(nearest_neighbors(e, 1)[0][0]) == 1
    with pytest.raises(ValueError, match="^a point has at least 1 neighbour, got k = 0"):
        nearest_neighbors(e, 0)
