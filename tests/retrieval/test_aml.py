"""Approximate max-pooling localization against plain loops, and on a planted pattern."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.retrieval.engines.aml import ApproximateMax, find_window


def naive(feature_map: np.ndarray, window: np.ndarray, alpha: float) -> np.ndarray:
    x0, y0, x1, y1 = window
    part = np.maximum(feature_map[:, y0:y1, x0:x1].astype(np.float64), 0)
    pooled = (part**alpha).mean(axis=(1, 2)) ** (1 / alpha)
    return pooled / np.linalg.norm(pooled)


def test_integral_images_give_the_generalized_mean() -> None:
    rng = np.random.default_rng(0)
    feature_map = rng.uniform(0.2, 6, (5, 9, 13)).astype(np.float32)
    pooled = ApproximateMax(feature_map, alpha=10.0)
    windows = np.array([[0, 0, 13, 9], [3, 2, 4, 3], [5, 1, 12, 8]])
    expected = [naive(feature_map, window, 10.0) for window in windows]
    np.testing.assert_allclose(pooled.pool(windows), expected, rtol=1e-4)


def test_windows_are_all_those_of_the_grid() -> None:
    windows = ApproximateMax(np.ones((1, 7, 6)), step=3).windows
    xs, ys = [0, 3, 6], [0, 3, 6, 7]
    expected = {
        (x0, y0, x1, y1) for x0 in xs for x1 in xs for y0 in ys for y1 in ys if x0 < x1 and y0 < y1
    }
    assert set(map(tuple, windows.tolist())) == expected and len(windows) == len(expected)


@pytest.mark.parametrize("corner", [(4, 6, 10, 12), (0, 0, 6, 6), (13, 8, 19, 14)])
def test_a_planted_pattern_is_found_off_the_grid(corner: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(1)
    x0, y0, x1, y1 = corner
    feature_map = np.zeros((24, 16, 20))
    feature_map[12:] = rng.uniform(0.5, 1, (12, 16, 20))
    feature_map[:, y0:y1, x0:x1] = 0
    feature_map[:12, y0:y1, x0:x1] = rng.uniform(0.8, 1, (12, y1 - y0, x1 - x0))
    query = np.concatenate([np.ones(12), np.zeros(12)])
    found = find_window(ApproximateMax(feature_map), query, aspect_ratio=1.0)
    # Smaller windows inside are as good for a cosine; none may reach out.
    assert x0 <= found[0] < found[2] <= x1 and y0 <= found[1] < found[3] <= y1


def test_refinement_never_lowers_the_cosine_and_stays_inside() -> None:
    rng = np.random.default_rng(2)
    pooled = ApproximateMax(rng.uniform(0, 1, (6, 11, 8)))
    for _ in range(20):
        query = rng.uniform(0, 1, 6)
        first = find_window(pooled, query, 1.0, rounds=0)
        last = find_window(pooled, query, 1.0, rounds=5)
        assert (last[:2] >= 0).all() and last[2] <= 8 and last[3] <= 11
        assert (last[2:] > last[:2]).all()
        before, after = pooled.pool(np.stack([first, last])) @ query
        assert after >= before


def test_first_windows_have_the_query_s_aspect_ratio_or_the_nearest() -> None:
    rng = np.random.default_rng(3)
    pooled = ApproximateMax(rng.uniform(0, 1, (4, 12, 12)))
    for aspect_ratio, expected in ((1.0, 1.0), (2.0, 2.0), (50.0, 4.0)):
        x0, y0, x1, y1 = find_window(pooled, rng.uniform(0, 1, 4), aspect_ratio, rounds=0)
        assert (x1 - x0) / (y1 - y0) == pytest.approx(expected, rel=0.1)


def naive_window(feature_map: np.ndarray, query: np.ndarray, aspect_ratio: float) -> list[int]:
    """The best window of the grid of step 3 whose aspect ratio is within 1.1 of the query's."""
    _, height, width = feature_map.shape
    best, found = -np.inf, [0, 0, 0, 0]
    for y0 in range(0, height, 3):
        for y1 in [*range(3, height, 3), height]:
            for x0 in range(0, width, 3):
                for x1 in [*range(3, width, 3), width]:
                    if y0 >= y1 or x0 >= x1:
                        continue
                    change = (x1 - x0) / (y1 - y0) / aspect_ratio
                    if not 1 / 1.1 <= change <= 1.1:
                        continue
                    window = np.array([x0, y0, x1, y1])
                    cosine = float(naive(feature_map, window, 10.0) @ query)
                    if cosine > best + 1e-9:
                        best, found = cosine, window.tolist()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_search_is_that_of_the_loops(seed: int) -> None:
    """The grid's best, then a place that no side alone can better within its reach."""
    rng = np.random.default_rng(seed)
    feature_map, query = rng.uniform(0.1, 1, (5, 10, 12)), rng.uniform(0, 1, 5)
    pooled = ApproximateMax(feature_map)
    first = find_window(pooled, query, 1.5, rounds=0)
    assert first.tolist() == naive_window(feature_map, query, 1.5)
    last = find_window(pooled, query, 1.5, rounds=50)
    reached = float(naive(feature_map, last, 10.0) @ query)
    for side in range(4):
        for step in range(-3, 4):
            window = last.copy()
            window[side] += step
            x0, y0, x1, y1 = window.tolist()
            if 0 <= x0 < x1 <= 12 and 0 <= y0 < y1 <= 10:
                assert float(naive(feature_map, window, 10.0) @ query) <= reached + 1e-6
