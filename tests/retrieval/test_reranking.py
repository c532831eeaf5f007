"""Query expansion and k-reciprocal re-ranking against loops that follow the formulas."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from spil_d2.retrieval import Regions, create_region_index
from spil_d2.retrieval.expansion import QueryExpansion, expand_queries, ranked_embeddings
from spil_d2.retrieval.rerank import KReciprocal, k_reciprocal_similarities
from spil_d2.retrieval.search import SearchSettings, rank_gallery
from spil_d2.structures import Query, Reference


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(seed: int, per_cluster: int, clusters: int = 3, size: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, 1, size))
    return unit((centres + 0.6 * rng.normal(size=(clusters, per_cluster, size))).reshape(-1, size))


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expansion_is_the_weighted_mean(alpha: float) -> None:
    rng = np.random.default_rng(0)
    queries, neighbours = unit(rng.normal(size=(4, 6))), unit(rng.normal(size=(4, 5, 6)))
    similarities = np.einsum("qd,qmd->qm", queries, neighbours)
    found = expand_queries(queries, neighbours, similarities, num_regions=3, alpha=alpha)
    for row in range(4):
        total = queries[row].astype(float)
        for m in range(3):
            total = total + max(similarities[row, m], 0) ** alpha * neighbours[row, m]
        np.testing.assert_allclose(found[row], total / np.linalg.norm(total), rtol=1e-5)


def test_expansion_over_more_regions_than_there_are_uses_those_that_are_there() -> None:
    queries, neighbours = unit(np.eye(2, 4)), np.zeros((2, 3, 4), np.float32)
    neighbours[0, 0] = [0, 1, 0, 0]
    similarities = np.zeros((2, 3), np.float32)
    found = expand_queries(queries, neighbours, similarities, num_regions=9)
    np.testing.assert_allclose(found, [unit(np.array([1.0, 1, 0, 0])), queries[1]], atol=1e-6)


@pytest.mark.parametrize(("n", "alpha"), [(0, 0.0), (2, -1.0)])
def test_expansion_refuses_impossible_settings(n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="at least 1 region and alpha >= 0"):
        expand_queries(np.eye(2), np.zeros((2, 3, 2)), np.zeros((2, 3)), num_regions=n, alpha=alpha)


def naive_k_reciprocal(similarities: np.ndarray, k1: int, k2: int, weight: float) -> np.ndarray:
    """The formulas of the paper, one node and one set after the other."""
    count = len(similarities)
    distance = [[1 - float(similarities[i, j]) for j in range(count)] for i in range(count)]

    @cache
    def nearest(p: int, k: int) -> list[int]:
        others = sorted((g for g in range(count) if g != p), key=lambda g: (distance[p][g], g))
        return [p, *others[:k]]

    @cache
    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in nearest(p, k) if p in nearest(g, k)}

    def expanded(p: int) -> set[int]:
        near = reciprocal(p, k1)
        result = set(near)
        for q in near:
            half = reciprocal(q, max(1, round(k1 / 2)))
            if len(near & half) >= 2 / 3 * len(half):
                result |= half
        return result

    vectors = np.zeros((count, count))
    for p in range(count):
        for g in expanded(p):
            vectors[p, g] = math.exp(-(distance[p][g] if g != p else 0))
    averaged = [np.mean([vectors[g] for g in nearest(p, k2 - 1)], axis=0) for p in range(count)]
    result = []
    for g in range(1, count):
        smaller = sum(min(a, b) for a, b in zip(averaged[0], averaged[g]))
        larger = sum(max(a, b) for a, b in zip(averaged[0], averaged[g]))
        result.append(1 - (1 - weight) * (1 - smaller / larger) - weight * distance[0][g])
    return np.array(result)


@pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(4, 2, 0.3), (20, 6, 0.3), (6, 1, 0.0), (1, 3, 0.5), (5, 3, 1.0)]
)
def test_k_reciprocal_is_the_naive_one(k1: int, k2: int, weight: float) -> None:
    nodes = clustered(3, per_cluster=8)
    similarities = nodes @ nodes.T
    np.testing.assert_allclose(
        k_reciprocal_similarities(similarities, k1=k1, k2=k2, weight=weight),
        naive_k_reciprocal(similarities, k1, k2, weight),
        atol=1e-6,
    )


def test_k_reciprocal_of_the_distance_alone_keeps_the_order_and_of_one_node_is_empty() -> None:
    nodes = clustered(1, per_cluster=5)
    similarities = nodes @ nodes.T
    found = k_reciprocal_similarities(similarities, weight=1.0)
    np.testing.assert_allclose(found, similarities[0, 1:], atol=1e-6)
    assert k_reciprocal_similarities(np.ones((1, 1))).shape == (0,)
    with pytest.raises(ValueError, match=r"not \(N, N\)"):
        k_reciprocal_similarities(np.ones((2, 3)))
    with pytest.raises(ValueError, match="k1 = 0"):
        k_reciprocal_similarities(np.ones((2, 2)), k1=0)


@pytest.fixture(params=[False, True], ids=["plain", "centred"])
def gallery(request: pytest.FixtureRequest):
    """30 images of three instances, two regions each, one of them noise."""
    rng = np.random.default_rng(5)
    good = clustered(2, per_cluster=11)
    index = create_region_index("exact", is_centred=request.param)
    queries = good[::11]
    images = np.delete(good, [0, 11, 22], axis=0)
    for image_id, embedding in enumerate(images):
        boxes = rng.uniform(0, 50, (2, 4)).astype(np.float32)
        noise = unit(rng.normal(size=8))
        index.add(
            [image_id], [Regions(boxes, np.ones(2, np.float32), np.stack([noise, embedding]))]
        )
    return index, queries


def as_queries(count: int) -> list[Query]:
    return [
        Query(row, (Reference("none.jpg", 9, 9, (0, 0, 5, 5), image_id=row),))
        for row in range(count)
    ]


def test_ranked_embeddings_are_those_of_the_regions_found(gallery) -> None:
    index, queries = gallery
    ranked = index.search([0], queries[:1], 30)[0]
    similarities = index.compare(queries[:1], ranked_embeddings(ranked, index))[0]
    np.testing.assert_allclose(similarities, ranked.similarities, atol=1e-5)


def test_settings_keep_the_contract_of_rank_lists(gallery) -> None:
    index, queries = gallery
    expansion, reciprocal = QueryExpansion(2), KReciprocal(k1=6, k2=2, shortlist=12)
    for settings in (
        None,
        SearchSettings(expansion),
        SearchSettings(None, reciprocal),
        SearchSettings(expansion, reciprocal),
    ):
        lists = rank_gallery(index, as_queries(3), queries, 29, settings)
        short = rank_gallery(index, as_queries(3), queries, 5, settings)
        for one in lists.lists:
            assert len(one) == 29 and one.query_id not in one.image_ids
            np.testing.assert_array_equal(one.image_ids[:5], short[one.query_id].image_ids)


def test_reranking_moves_the_head_alone(gallery) -> None:
    index, queries = gallery
    before = rank_gallery(index, as_queries(3), queries, 29)
    settings = SearchSettings(None, KReciprocal(k1=6, k2=2, shortlist=12))
    after = rank_gallery(index, as_queries(3), queries, 29, settings)
    for query_id in before:
        one, two = before[query_id], after[query_id]
        np.testing.assert_array_equal(one.image_ids[12:], two.image_ids[12:])
        assert sorted(one.image_ids[:12]) == sorted(two.image_ids[:12])
        nodes = np.concatenate([queries[[query_id]], ranked_embeddings(one.top(12), index)])
        expected = naive_k_reciprocal(index.compare(nodes, nodes), 6, 2, 0.3)
        np.testing.assert_allclose(two.similarities[:12], np.sort(expected)[::-1], atol=1e-5)
        boxes = {i: tuple(b) for i, b in zip(one.image_ids.tolist(), one.boxes)}
        assert all(boxes[i] == tuple(b) for i, b in zip(two.image_ids.tolist(), two.boxes))


def test_expanded_queries_find_more_of_their_instance() -> None:
    good = clustered(7, per_cluster=12, clusters=4, size=16)
    index = create_region_index("exact")
    boxes, one = np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32)
    index.add(range(48), [Regions(boxes, one, row[None]) for row in good])
    queries = [Query(i, (Reference("x.jpg", 9, 9, (0, 0, 5, 5), image_id=i),)) for i in range(48)]

    def precision(settings: SearchSettings | None) -> float:
        lists = rank_gallery(index, queries, good, 11, settings)
        return float(np.mean([(lists[i].image_ids // 12 == i // 12).mean() for i in range(48)]))

    plain = precision(None)
    assert precision(SearchSettings(QueryExpansion(3))) > plain
    assert precision(SearchSettings(None, KReciprocal(k1=11, k2=4))) > plain
