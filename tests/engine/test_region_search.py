"""Boxes of a localizer in the order of a ranker, against loops."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.engine.region_search import (
    Found,
    best_boxes,
    lists_by_score,
    rank_regions,
    shared_boxes,
)
from spil_d2.ops.similarity import unit_rows
from spil_d2.structures import Query, Reference


class BoxEmbedder:
    """The embedding of a region is made of its file and its corners; counts what it embeds."""

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, regions):
        self.embedded += len(regions)
        rows = [[len(name), *box, 1.0] for name, box in regions]
        return unit_rows(np.array(rows, np.float64).reshape(-1, 6)).astype(np.float32)


def queries_of(count: int) -> list[Query]:
    return [
        Query(10 + i, (Reference("q" * (i + 1), 50, 50, (1.0 + i, 2, 20, 30)),))
        for i in range(count)
    ]


def some_boxes(seed: int, count: int, num_queries: int = 3, num_images: int = 4) -> Found:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (count, 2))], axis=1)
    return Found(
        10 + rng.integers(0, num_queries, count),
        rng.integers(0, num_images, count),
        boxes.astype(np.float32),
        rng.random(count).astype(np.float32),
    )


GALLERY = [{"image_id": i, "file_name": f"image {i}" + "x" * i} for i in range(4)]


def test_boxes_are_compared_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, queries, embedder = some_boxes(5, 40), queries_of(3), BoxEmbedder()
    lists = lists_by_score(found, queries)
    at_once = rank_regions(lists, embedder, queries, GALLERY, share_iou=0.5)
    monkeypatch.setattr("spil_d2.engine.region_search._COMPARED", 7)
    in_parts = rank_regions(lists, embedder, queries, GALLERY, share_iou=0.5)
    for query_id in at_once:
        one, other = at_once[query_id], in_parts[query_id]
        np.testing.assert_array_equal(one.image_ids, other.image_ids)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.similarities, other.similarities)


def test_regions_are_ranked_by_their_cosine_with_the_query() -> None:
    found, queries, embedder = some_boxes(0, 40), queries_of(4), BoxEmbedder()
    lists = rank_regions(lists_by_score(found, queries), embedder, queries, GALLERY)
    assert list(lists) == [10, 11, 12, 13] and len(lists[13]) == 0
    for query in queries[:3]:
        (shown,) = embedder.embed([(query.primary.file_name, query.primary.box)])
        expected = []
        for i in np.flatnonzero(found.query_ids == query.id):
            name = GALLERY[found.image_ids[i]]["file_name"]
            (seen,) = embedder.embed([(name, found.boxes[i].tolist())])
            expected.append((float(shown @ seen), int(found.image_ids[i]), float(found.scores[i])))
        expected.sort(reverse=True)
        one = lists[query.id]
        np.testing.assert_allclose(one.similarities, [s for s, *_ in expected], atol=1e-6)
        assert one.image_ids.tolist() == [image for _, image, _ in expected]
        np.testing.assert_allclose(one.localizer_scores, [p for *_, p in expected])


def test_boxes_that_overlap_share_the_embedding_of_the_surest() -> None:
    found = some_boxes(1, 60)
    rows, place = shared_boxes(found, 0.6)
    kept = set(rows.tolist())
    assert 0 < len(rows) < 60
    for i, box in enumerate(found.boxes):
        stands = rows[place[i]]
        assert found.image_ids[stands] == found.image_ids[i]
        overlaps = {
            j: iou(box, found.boxes[j]) for j in kept if found.image_ids[j] == found.image_ids[i]
        }
        assert overlaps[stands] == pytest.approx(max(overlaps.values()))
        if i not in kept:
            # It gave way to a surer box of the same image.
            assert any(v > 0.6 and found.scores[j] > found.scores[i] for j, v in overlaps.items())
        else:
            assert stands == i
    embedder = BoxEmbedder()
    queries = queries_of(3)
    rank_regions(lists_by_score(found, queries), embedder, queries, GALLERY, share_iou=0.6)
    assert embedder.embedded == 3 + len(rows)


def test_the_best_boxes_of_each_image_are_the_surest() -> None:
    found, queries = some_boxes(2, 50), queries_of(3)
    best = best_boxes(lists_by_score(found, queries), 2)
    for query in queries:
        expected = []
        for image_id in range(4):
            its = (found.query_ids == query.id) & (found.image_ids == image_id)
            expected += sorted(found.scores[its].tolist(), reverse=True)[:2]
        seen = best[query.id].localizer_scores.tolist()
        assert seen == sorted(seen, reverse=True) == sorted(expected, reverse=True)


def test_nothing_found_is_empty_lists() -> None:
    for share_iou in (0.5, 1.0):
        queries = queries_of(2)
        nothing = lists_by_score(Found.join([]), queries)
        lists = rank_regions(nothing, BoxEmbedder(), queries, GALLERY, share_iou)
        assert [len(one) for one in lists.lists] == [0, 0]


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)
