from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spil_d2.retrieval import RegionIndex, Regions, Whitening
from spil_d2.retrieval.pooling import pool_boxes


def make_regions(rng: np.random.Generator, count: int, size: int = 6) -> Regions:
    embeddings = rng.normal(size=(count, size)).astype(np.float16).astype(np.float32)
    boxes = rng.uniform(0, 100, (count, 4)).astype(np.float32)
    return Regions(boxes, rng.random(count).astype(np.float32), embeddings)


@pytest.fixture
def gallery() -> tuple[list[int], list[Regions]]:
    rng = np.random.default_rng(0)
    ids = rng.permutation(40).tolist()
    return ids, [make_regions(rng, int(rng.integers(1, 6))) for _ in ids]


def naive_search(ids, regions, query, k, skip):
    found = []
    for image_id, one in zip(ids, regions):
        if image_id in skip:
            continue
        values = [float(np.dot(embedding, query)) for embedding in one.embeddings]
        best = int(np.argmax(values))
        found.append((-values[best], image_id, one.boxes[best]))
    return sorted(found, key=lambda item: item[:2])[:k]


def test_search_is_the_naive_loop(gallery) -> None:
    ids, regions = gallery
    index = RegionIndex()
    index.add(ids[:15], regions[:15])
    index.add(ids[15:], regions[15:])
    assert len(index) == 40 and index.num_regions == sum(len(one.boxes) for one in regions)
    queries = np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32)
    excluded = [{ids[0], ids[7]}, set(), {999}]
    lists = index.search([10, 11, 12], queries, 12, excluded)
    for query_id, query, skip in zip((10, 11, 12), queries, excluded):
        expected = naive_search(ids, regions, query, 12, skip)
        assert lists[query_id].image_ids.tolist() == [item[1] for item in expected]
        np.testing.assert_allclose(
            lists[query_id].similarities, [-item[0] for item in expected], rtol=1e-4
        )
        np.testing.assert_array_equal(lists[query_id].boxes, [item[2] for item in expected])


def test_a_centred_index_forgets_the_common_part(gallery, tmp_path: Path) -> None:
    ids, regions = gallery
    shifted = [Regions(one.boxes, one.saliency, one.embeddings + 2) for one in regions]
    index = RegionIndex(is_centred=True)
    index.add(ids, shifted)
    index.save(tmp_path)
    query = np.random.default_rng(1).normal(size=(1, 6)).astype(np.float32) + 2
    stored = np.concatenate([one.embeddings for one in shifted]).astype(np.float16)
    mean = stored.astype(np.float64).mean(axis=0)
    found = RegionIndex.open(tmp_path).search([1], query, 40)[1]
    for image_id, similarity in zip(found.image_ids, found.similarities):
        parts = shifted[ids.index(image_id)].embeddings - mean
        cosines = parts @ (query[0] - mean) / np.linalg.norm(parts, axis=1)
        expected = cosines.max() / np.linalg.norm(query[0] - mean)
        assert similarity == pytest.approx(expected, abs=5e-3)


def test_round_trip_and_damaged_files(gallery, tmp_path: Path) -> None:
    index = RegionIndex()
    index.add(*gallery)
    index.save(tmp_path)
    again = RegionIndex.open(tmp_path)
    query = np.ones((1, 6), np.float32)
    one, two = index.search([1], query, 40)[1], again.search([1], query, 40)[1]
    np.testing.assert_array_equal(one.image_ids, two.image_ids)
    np.testing.assert_array_equal(one.boxes, two.boxes)
    np.testing.assert_array_equal(index.saliency, again.saliency)
    (tmp_path / "regions.npz").write_bytes((tmp_path / "regions.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=str(tmp_path)):
        RegionIndex.open(tmp_path)


def test_files_of_two_indexes_are_refused(gallery, tmp_path: Path) -> None:
    index = RegionIndex()
    index.add(*gallery)
    index.save(tmp_path)
    np.save(tmp_path / "embeddings.npy", index.embeddings[:-1])
    with pytest.raises(ValueError, match="not of one region index"):
        RegionIndex.open(tmp_path)


def test_wrong_input_is_named(gallery) -> None:
    index = RegionIndex()
    index.add(*gallery)
    with pytest.raises(ValueError, match="twice"):
        index.add([gallery[0][0]], [gallery[1][0]])
    with pytest.raises(ValueError, match="image 77"):
        index.add([77], [make_regions(np.random.default_rng(0), 0)])
    with pytest.raises(ValueError, match="query embeddings"):
        index.search([1], np.ones((1, 5), np.float32), 3)
    with pytest.raises(ValueError, match="search of 0 images"):
        RegionIndex().search([1], np.ones((1, 5), np.float32), 3)


def test_whitening_makes_unit_variance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5)) + 3).astype(np.float32)
    whitening = Whitening.fit(data, 3)
    white = (data - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(3), atol=1e-3)
    whitening.save(tmp_path / "whitening.npz")
    applied = Whitening.load(tmp_path / "whitening.npz").apply(data)
    np.testing.assert_allclose(
        applied, white / np.linalg.norm(white, axis=1, keepdims=True), rtol=1e-4
    )
    with pytest.raises(ValueError, match="more than 3"):
        Whitening.fit(data[:3], 3)


@pytest.mark.parametrize("pooling", ["mean", "gem"])
def test_pooling_is_the_mean_over_touched_cells(pooling: str) -> None:
    torch.manual_seed(0)
    feature_map = torch.rand(4, 6, 8)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 6.0], [1.2, 2.0, 3.1, 2.5], [7.9, 5.9, 8.0, 6.0]])
    cells = [(0, 0, 8, 6), (1, 2, 4, 3), (7, 5, 8, 6)]
    pooled = pool_boxes(feature_map, boxes, pooling)
    for row, (x0, y0, x1, y1) in zip(pooled, cells):
        part = feature_map[:, y0:y1, x0:x1].flatten(1)
        expected = part.mean(1) if pooling == "mean" else part.pow(3).mean(1).pow(1 / 3)
        torch.testing.assert_close(row, expected)
