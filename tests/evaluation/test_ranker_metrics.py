"""The ranker alone, against a loop."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.evaluation.ranker_metrics import (
    OUTSIDE,
    Crops,
    gallery_crops,
    query_crops,
    ranker_metrics,
)

from .conftest import make_query, make_record


def slow_metrics(
    query_vectors: np.ndarray, vectors: np.ndarray, queries: Crops, gallery: Crops, separate: bool
) -> dict[str, float]:
    aps, firsts = [], []
    for q, vector in enumerate(query_vectors):
        scored = []
        for g, other in enumerate(vectors):
            same = gallery.identities[g] == queries.identities[q]
            own = same and gallery.image_ids[g] == queries.image_ids[q]
            if separate and queries.cameras is not None and gallery.cameras is not None:
                own = own or (same and gallery.cameras[g] == queries.cameras[q])
            if not own:
                cosine = vector @ other / np.linalg.norm(vector) / np.linalg.norm(other)
                scored.append((-cosine, g, bool(same)))
        hits = [same for _, _, same in sorted(scored)]
        if any(hits):
            precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
            aps.append(sum(precisions) / sum(hits))
            firsts.append(hits.index(True))
    found = {f"rank-{k}": 100 * float(np.mean([f < k for f in firsts])) for k in (1, 5, 10)}
    return {"mAP": 100 * float(np.mean(aps)), **found}


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def crops(count: int, identities: int) -> Crops:
        return Crops(
            rng.integers(0, 30, count),
            np.zeros((count, 4)),
            rng.integers(-1, identities, count),
            rng.integers(0, 3, count),
        )

    gallery, queries = crops(200, 12), crops(150, 12)
    vectors, query_vectors = rng.normal(size=(200, 6)), rng.normal(size=(150, 6))
    queries.identities[queries.identities < 0] = 0
    found = ranker_metrics(query_vectors, vectors, queries, gallery, "ranker")
    for name, separate in (("all_cameras", False), ("separate_cameras", True)):
        expected = slow_metrics(query_vectors, vectors, queries, gallery, separate)
        for metric, value in expected.items():
            assert found[f"ranker/{name}/{metric}"] == pytest.approx(value)


def test_a_perfect_list_has_an_ap_of_exactly_1() -> None:
    gallery = Crops(np.array([1, 2]), np.zeros((2, 4)), np.array([5, 6]))
    queries = Crops(np.array([OUTSIDE]), np.zeros((1, 4)), np.array([5]))
    found = ranker_metrics(np.eye(2)[:1], np.eye(2), queries, gallery)
    assert found["ranker/all_cameras/mAP"] == 100
    assert "ranker/separate_cameras/mAP" not in found, "without cameras there is one setting"


def test_a_query_never_finds_itself() -> None:
    gallery = Crops(np.array([1, 2, 1]), np.zeros((3, 4)), np.array([5, 5, 6]))
    queries = Crops(np.array([1]), np.zeros((1, 4)), np.array([5]))
    vectors = np.array([[1, 0], [0, 1], [0.5, 0.5]])
    found = ranker_metrics(vectors[:1], vectors, queries, gallery)
    # Its own crop is gone; the other instance in its image stays and ranks first.
    assert found["ranker/all_cameras/rank-1"] == 0
    assert found["ranker/all_cameras/mAP"] == 50


def test_ties_are_in_gallery_order() -> None:
    vectors = np.tile([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], (40, 1))
    rng = np.random.default_rng(0)
    gallery = Crops(np.arange(120), np.zeros((120, 4)), rng.integers(0, 2, 120))
    queries = Crops(np.array([OUTSIDE]), np.zeros((1, 4)), np.array([1]))
    found = ranker_metrics(np.array([[2.0, 1.0]]), vectors, queries, gallery)
    order = [*range(2, 120, 3), *range(1, 120, 3), *range(0, 120, 3)]
    hits = [gallery.identities[g] == 1 for g in order]
    precisions = [sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]
    assert found["ranker/all_cameras/mAP"] == pytest.approx(100 * np.mean(precisions))


def test_cameras_of_one_side_alone_separate_nothing() -> None:
    without = Crops(np.array([1, 2]), np.zeros((2, 4)), np.array([5, 5]))
    with_cameras = Crops(np.array([1, 2]), np.zeros((2, 4)), np.array([5, 5]), np.array([0, 1]))
    for queries, gallery in ((without, with_cameras), (with_cameras, without)):
        found = ranker_metrics(np.eye(2), np.eye(2), queries, gallery)
        assert all(key.startswith("ranker/all_cameras/") for key in found)


def test_half_precision_is_no_matter() -> None:
    """The squares of these numbers are above the largest number of 16 bits."""
    vectors = np.array([[300, 0], [200, 300], [0, 300]], np.float16)
    gallery = Crops(np.array([1, 2, 3]), np.zeros((3, 4)), np.array([6, 5, 6]))
    queries = Crops(np.array([OUTSIDE]), np.zeros((1, 4)), np.array([5]))
    found = ranker_metrics(np.array([[250, 300]], np.float16), vectors, queries, gallery)
    assert found["ranker/all_cameras/mAP"] == 100


def test_crops_of_nothing_have_the_same_types() -> None:
    for crops in (gallery_crops([], {}), query_crops([], {})):
        assert crops.boxes.shape == (0, 4)
        arrays = (crops.image_ids, crops.identities, crops.cameras, crops.boxes)
        assert [one.dtype for one in arrays] == [np.int64, np.int64, np.int64, np.float64]


def test_crops_come_from_a_dataset() -> None:
    dicts = [make_record(1, (5, (0, 0, 10, 20)), (6, (5, 5, 10, 10))), make_record(2)]
    dicts.append({"file_name": "3.jpg", "image_id": 3})
    gallery = gallery_crops(dicts, {1: 3})
    assert gallery.boxes.dtype == np.float64
    assert gallery.boxes.tolist() == [[0, 0, 10, 20], [5, 5, 15, 15]]
    assert gallery.identities.tolist() == [5, 6]
    assert gallery.cameras is not None
    assert gallery.cameras.tolist() == [3, 3]
    queries = query_crops([make_query(7, 5, 1), make_query(8, 6)])
    assert queries.image_ids.tolist() == [1, OUTSIDE]
    assert queries.identities.tolist() == [5, 6]
    assert queries.cameras is None
    assert queries.boxes.dtype == np.float64
    cameras = query_crops([make_query(7, 5, 1), make_query(8, 6), make_query(9, 6, 4)], {1: 3})
    assert cameras.cameras is not None
    assert cameras.cameras.tolist() == [3, OUTSIDE, OUTSIDE]
    with pytest.raises(ValueError, match="query 9 has no instance_id"):
        query_crops([make_query(9, None)])


def test_what_does_not_fit_is_refused() -> None:
    crops = Crops(np.array([1]), np.zeros((1, 4)), np.array([5]))
    with pytest.raises(ValueError, match="do not belong to"):
        ranker_metrics(np.zeros((2, 3)), np.zeros((1, 3)), crops, crops)
    with pytest.raises(ValueError, match="no query has another crop"):
        ranker_metrics(np.ones((1, 3)), np.ones((1, 3)), crops, crops)
