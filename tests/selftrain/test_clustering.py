"""Clustering on the sparse graph against DBSCAN by its definition on all pairs."""

from __future__ import annotations

import logging
import tracemalloc
from collections import deque

import numpy as np
import pytest
from sklearn.cluster import DBSCAN

from spil_d2.ops.numpy_boxes import paired_iou
from spil_d2.selftrain import clustering as module
from spil_d2.selftrain.clustering import MODES, ClusteringSettings, choose_eps, cluster_regions
from spil_d2.selftrain.neighbor_graph import nearest_neighbors
from spil_d2.structures import NOISE, ClusterAssignment

SCALE = {"bonus": 0.0, "sum": 1.0, "penalty": 0.0, "cosine": 0.0}


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0.0) * max(h, 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (areas - common)


def _naive_distances(e, image_ids, boxes, mode: str, weight: float) -> np.ndarray:
    n = len(e)
    d = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            v = float(e[i].astype(float) @ e[j].astype(float))
            same = image_ids[i] == image_ids[j]
            iou = _iou(boxes[i], boxes[j]) if same else 0.0
            if mode == "cosine":
                d[i, j] = 1 - v
            elif mode == "sum":
                d[i, j] = 2 - (v + iou)
            elif mode == "bonus":
                d[i, j] = 1 - min(1.0, v + weight * iou)
            else:
                d[i, j] = (1 - v) + (weight * (1 - iou) if same else 0.0)
    np.fill_diagonal(d, 0)
    return d


def _naive_dbscan(d: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    """Breadth first from the core points, in the order of positions."""
    near = d <= eps
    core = near.sum(axis=1) >= min_samples
    labels = np.full(len(d), NOISE)
    for start in range(len(d)):
        if not core[start] or labels[start] != NOISE:
            continue
        cluster, queue = labels.max() + 1, deque([start])
        labels[start] = cluster
        while queue:
            for j in np.flatnonzero(near[queue.popleft()]):
                if labels[j] == NOISE:
                    labels[j] = cluster
                    if core[j]:
                        queue.append(j)
    return labels


def _random_regions(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(9, 6))
    e = centers[rng.integers(9, size=n)] + rng.normal(size=(n, 6)) * 0.35
    e = (e / np.linalg.norm(e, axis=1, keepdims=True)).astype(np.float32)
    corners = rng.uniform(0, 40, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 50, (n, 2))], axis=1)
    return e, rng.integers(12, size=n), boxes.astype(np.float32)


def _worked_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spec 5.4: 1 - cosine of the pairs 12, 14, 24 is .02, .05, .04, that of 3 and others .9."""
    gram = np.full((4, 4), 0.1)
    for i, j, d in ((0, 1, 0.02), (0, 3, 0.05), (1, 3, 0.04)):
        gram[i, j] = gram[j, i] = 1 - d
    np.fill_diagonal(gram, 1)
    values, vectors = np.linalg.eigh(gram)
    assert values.min() > 0
    boxes = np.array([[0, 0, 10, 10], [0, 0, 5, 5], [0, 0, 7, 7], [0, 0, 9, 10]], np.float32)
    return (vectors * values**0.5).astype(np.float32), np.array([1, 2, 3, 1]), boxes


@pytest.mark.parametrize(
    ("mode", "eps", "labels"),
    [
        ("cosine", 0.2, [0, 0, -1, 0]),
        # The trap: no link across images, so region 2 loses its friends.
        ("sum", 0.2, [0, -1, -1, 0]),
        ("sum", 1.2, [0, 0, -1, 0]),
        ("bonus", 0.2, [0, 0, -1, 0]),
        ("penalty", 0.2, [0, 0, -1, 0]),
        # 1 and 4 are .05 + 1 - .9 = .15 apart, both are .02 and .04 from 2.
        ("penalty", 0.045, [0, 0, -1, 0]),
        ("penalty", 0.03, [0, 0, -1, -1]),
    ],
)
def test_the_worked_example(mode: str, eps: float, labels: list[int]) -> None:
    clusters = cluster_regions(*_worked_example(), ClusteringSettings(mode, eps, min_samples=2))
    assert clusters.labels.tolist() == labels


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("eps", "min_samples"), [(0.08, 1), (0.15, 2), (0.25, 4), (0.5, 6)])
def test_it_is_dbscan_on_all_pairs(mode: str, seed: int, eps: float, min_samples: int) -> None:
    regions = _random_regions(seed)
    eps += SCALE[mode]
    weight = 1.0 if mode == "sum" else 0.6
    # Few neighbours of a region's own: those that overlap on its image are in the graph anyway.
    settings = ClusteringSettings(
        mode, eps, min_samples=min_samples, iou_weight=weight, num_neighbors=35
    )
    d = _naive_distances(*regions, mode, weight)
    expected = ClusterAssignment.from_labels(_naive_dbscan(d, eps, min_samples))
    assert np.array_equal(cluster_regions(*regions, settings).labels, expected.labels)


def test_sum_with_eps_plus_1_is_bonus() -> None:
    for seed in range(10):
        regions = _random_regions(seed)
        one = cluster_regions(*regions, ClusteringSettings("bonus", 0.08))
        two = cluster_regions(*regions, ClusteringSettings("sum", 1.08))
        assert np.array_equal(one.labels, two.labels) and one.num_clusters > 2


def _at_angles(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


@pytest.mark.parametrize(("mode", "labels"), [("bonus", [0, 0, 0, 0]), ("cosine", [-1, 0, 0, 0])])
def test_overlap_links_regions_that_are_no_neighbours(mode: str, labels: list[int]) -> None:
    # The nearest of each are 1, 2, 1 and 2. Region 0 looks like none (cos 60 = 0.5), but lies
    # where 3 does: cos 100 + 1 = 0.83.
    e, image_ids = _at_angles(0, 60, 70, 100), np.array([1, 2, 3, 1])
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (4, 1))
    settings = ClusteringSettings(mode, 0.2, num_neighbors=1)
    assert cluster_regions(e, image_ids, boxes, settings).labels.tolist() == labels


def test_one_of_two_regions_needs_to_be_among_the_neighbours_of_the_other() -> None:
    # The nearest of each are 1, 0 and 0.
    e, boxes = _at_angles(0, 5, -10), np.tile(np.array([0, 0, 9, 9], np.float32), (3, 1))
    settings = ClusteringSettings("cosine", 0.02, num_neighbors=1)
    assert cluster_regions(e, np.arange(3), boxes, settings).labels.tolist() == [0, 0, 0]


def test_regions_at_the_distance_eps_are_linked() -> None:
    e, boxes = np.eye(2, dtype=np.float32), np.tile(np.array([0, 0, 9, 9], np.float32), (2, 1))
    settings = ClusteringSettings("cosine", 1.0)
    assert cluster_regions(e, np.arange(2), boxes, settings).labels.tolist() == [0, 0]


@pytest.mark.parametrize("at_once", [1, 7, 30, 1 << 15])
def test_overlapping_pairs_of_an_image_come_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_PAIRS", at_once)
    _, image_ids, boxes = _random_regions(0, 50)
    image_ids = image_ids // 3
    expected = [
        (i, j)
        for i in range(50)
        for j in range(i + 1, 50)
        if image_ids[i] == image_ids[j] and paired_iou(boxes[i : i + 1], boxes[j : j + 1])[0] > 0
    ]
    blocks = list(module._overlapping_pairs(image_ids, boxes))
    found = [pair for i, j in blocks for pair in zip(i.tolist(), j.tolist(), strict=True)]
    assert sorted(found) == expected and len(expected) > 50


def test_the_limit_of_the_exact_search_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def neighbours(e: np.ndarray, k: int, exact_limit: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append((k, exact_limit))
        return nearest_neighbors(e, k)

    monkeypatch.setattr(module, "nearest_neighbors", neighbours)
    settings = ClusteringSettings("cosine", 0.2, num_neighbors=3, exact_limit=1234)
    cluster_regions(*_worked_example(), settings)
    assert asked == [(3, 1234)]


def test_what_was_clustered_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    # Distances to the nearest region of another image: .02, .02, .9 and .04.
    settings = ClusteringSettings("cosine", eps_percentile=50.0)
    cluster_regions(*_worked_example(), settings)
    cluster_regions(*_worked_example(), ClusteringSettings("cosine", 0.01))
    assert caplog.messages == [
        "eps 0.0300 (mode cosine): percentile 50 of the distances to neighbour 1 on another image; "
        "quartiles of 1 - cosine [0.02, 0.03, 0.255]; 4 of 4 regions have such a neighbour",
        "clustering 4 regions (cosine, eps 0.030): 1 links, 1 clusters, the largest of 2, 2 noise",
        "clustering 4 regions (cosine, eps 0.010): 0 links, 0 clusters, the largest of 0, 4 noise",
    ]


def test_like_regions_of_one_image_stay_apart_by_the_penalty() -> None:
    e = np.tile(np.eye(4, dtype=np.float32)[:1], (2, 1))
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    for image_ids, clusters in ((np.array([1, 1]), 0), (np.array([1, 2]), 1)):
        found = cluster_regions(e, image_ids, boxes, ClusteringSettings("penalty", 0.2))
        assert found.num_clusters == clusters


@pytest.mark.parametrize("mode", MODES)
def test_the_order_of_regions_does_not_matter(mode: str) -> None:
    # min_samples 2: no border point lies between two clusters, where DBSCAN goes by order.
    e, image_ids, boxes = _random_regions(3, 120)
    settings = ClusteringSettings(mode, 0.12 + SCALE[mode], min_samples=2)
    before = cluster_regions(e, image_ids, boxes, settings)
    order = np.random.default_rng(0).permutation(120)
    after = cluster_regions(e[order], image_ids[order], boxes[order], settings)
    assert np.array_equal(before.sizes, after.sizes)
    back = np.empty(120, int)
    back[order] = after.labels
    pairs = {(int(a), int(b)) for a, b in zip(before.labels, back)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_only_the_largest_clusters_are_kept() -> None:
    regions = _random_regions(0)
    every = cluster_regions(*regions, ClusteringSettings("cosine", 0.1))
    two = cluster_regions(*regions, ClusteringSettings("cosine", 0.1, max_clusters=2))
    assert every.num_clusters > 2
    assert np.array_equal(two.labels, np.where(every.labels < 2, every.labels, NOISE))


@pytest.mark.parametrize("mode", ["bonus", "sum"])
@pytest.mark.parametrize("min_samples", [2, 4])
def test_eps_is_a_percentile_of_distances_across_images(
    mode: str, min_samples: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    e, image_ids, _ = _random_regions(1)
    settings = ClusteringSettings(mode, min_samples=min_samples, eps_percentile=30.0)
    eps = choose_eps(*nearest_neighbors(e, 59), image_ids, settings)
    distances = []
    for i in range(60):
        others = sorted(1 - float(e[i] @ e[j]) for j in range(60) if image_ids[j] != image_ids[i])
        distances.append(others[min_samples - 2])
    assert eps == pytest.approx(np.percentile(distances, 30) + SCALE[mode], abs=1e-6)
    quartiles = [round(float(np.percentile(distances, part)), 3) for part in (25, 50, 75)]
    assert f"quartiles of 1 - cosine {quartiles}; 60 of 60 regions have" in caplog.text


def test_eps_of_one_image_alone_is_an_error() -> None:
    e, _, boxes = _random_regions(1)
    message = (
        "^no region has 1 of its 30 nearest neighbours on other images: set CST.CLUSTERING.EPS "
        "instead of EPS_PERCENTILE, or more NUM_NEIGHBORS$"
    )
    with pytest.raises(ValueError, match=message):
        cluster_regions(e, np.zeros(60, int), boxes, ClusteringSettings(eps_percentile=30.0))


@pytest.mark.parametrize(
    ("mode", "eps", "is_trap"),
    [("sum", 0.2, True), ("sum", 1.0, True), ("sum", 1.01, False), ("cosine", 0.2, False)],
)
def test_the_trap_is_told(
    mode: str, eps: float, is_trap: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cluster_regions(*_random_regions(0), ClusteringSettings(mode, eps))
    message = (
        "CST.CLUSTERING.MODE 'sum' has distances of at least 1 across images: with eps "
        f"{eps:.3f} only boxes of one image can share a cluster"
    )
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        message
    ] * is_trap


@pytest.mark.parametrize(("min_samples", "labels"), [(1, [0]), (2, [NOISE])])
def test_no_region_and_one_region(min_samples: int, labels: list[int]) -> None:
    e, image_ids, boxes = _random_regions(0, 1)
    settings = ClusteringSettings(min_samples=min_samples)
    assert cluster_regions(e, image_ids, boxes, settings).labels.tolist() == labels
    assert len(cluster_regions(e[:0], image_ids[:0], boxes[:0], settings)) == 0


def test_columns_of_other_lengths_are_named() -> None:
    e, image_ids, boxes = _random_regions(0, 5)
    for wrong in ((image_ids[:4], boxes), (image_ids, boxes[:4]), (image_ids, boxes[:, :2])):
        message = rf"^5 embeddings, but image_ids \({len(wrong[0])},\) and boxes \("
        with pytest.raises(ValueError, match=message):
            cluster_regions(e, *wrong, ClusteringSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "iou"}, "MODE is 'iou': use one of"),
        ({"eps": 0}, " needs EPS > 0, .* and IOU_WEIGHT >= 0, got 0, 0.0 and 1.0"),
        ({"eps_percentile": 100}, " needs EPS > 0, .* got 0.25, 100 and 1.0"),
        ({"iou_weight": -1}, " needs EPS > 0, .* got 0.25, 0.0 and -1"),
        ({"min_samples": 0}, " needs MIN_SAMPLES >= 1 and NUM_NEIGHBORS >= .* got 0 and 30"),
        ({"min_samples": 32}, " needs MIN_SAMPLES >= 1 .* >= MIN_SAMPLES - 1, got 32 and 30"),
        ({"min_samples": 1, "num_neighbors": 0}, " needs MIN_SAMPLES >= 1 .* got 1 and 0"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match="^CST.CLUSTERING.?" + message):
        ClusteringSettings(**settings)


def test_settings_at_their_limits_are_allowed() -> None:
    limits = {"iou_weight": 0.0, "min_samples": 31, "num_neighbors": 30, "eps_percentile": 99.9}
    assert vars(ClusteringSettings(**limits)).items() >= limits.items()


def test_20000_regions_need_no_matrix_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    n = 20_000
    centers = rng.normal(size=(2000, 16)).astype(np.float32)
    e = centers[np.arange(n) % 2000] + 0.05 * rng.normal(size=(n, 16)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (n, 1))
    tracemalloc.start()
    clusters = cluster_regions(e, np.arange(n) % 7000, boxes, ClusteringSettings("cosine", 0.03))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Of all pairs in float32: 1.6 GB.
    assert peak < 200e6
    assert clusters.num_clusters >= 1900


@pytest.mark.parametrize(("mode", "eps"), [("cosine", 0.1), ("sum", 1.1), ("sum", 0.9)])
def test_it_is_sklearns_dbscan_on_the_precomputed_distances_of_the_released_code(
    mode: str, eps: float
) -> None:
    """d = 1 - cos, and d = (1 - cos) + (1 - IoU) with an IoU of 0 across images: 2 - S."""
    e, image_ids, boxes = _random_regions(7)
    similarities = np.clip(e.astype(float) @ e.T.astype(float), -1, 1)
    overlap = np.array([[_iou(a, b) for b in boxes] for a in boxes])
    overlap *= image_ids[:, None] == image_ids
    d = 1 - similarities if mode == "cosine" else (1 - similarities) + (1 - overlap)
    np.fill_diagonal(d, 0)
    labels = DBSCAN(eps=eps, min_samples=2, metric="precomputed").fit_predict(d.clip(min=0))
    expected = ClusterAssignment.from_labels(labels)
    assert expected.num_clusters > 2
    found = cluster_regions(e, image_ids, boxes, ClusteringSettings(mode, eps, num_neighbors=59))
    assert np.array_equal(found.labels, expected.labels)
