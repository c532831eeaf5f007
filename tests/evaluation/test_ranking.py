"""Ranking metrics against loops and tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.evaluation import AP_VARIANTS, precision_at


def _hits(positions: list[int], length: int) -> np.ndarray:
    hits = np.zeros(length, bool)
    hits[positions] = True
    return hits


# Relevant images at ranks 0, 2, 5 and 7 of 200, six exist: precisions 1, 2/3, 1/2 and 1/2.
WORKED = _hits([0, 2, 5, 7], 200)


@pytest.mark.parametrize(
    ("variant", "k", "expected"),
    [
        ("std", None, 0.444444),
        ("divG", None, 0.444444),
        ("lab", None, 0.444444),
        ("trapezoid", None, 0.416270),
        ("std", 5, 0.333333),
        ("divG", 5, 0.277778),
        ("lab", 5, 0.333333),
        ("std", 128, 0.444444),
        ("divG", 128, 0.444444),
        ("lab", 128, 0.361111),
    ],
)
def test_worked_vector(variant: str, k: int | None, expected: float) -> None:
    assert AP_VARIANTS[variant](WORKED, 6, k) == pytest.approx(expected, abs=1e-6)


def _naive(variant: str, hits: np.ndarray, num_relevant: int, k: int | None) -> float:
    """Walks down the list as the definitions read."""
    cut = len(hits) if k is None else k
    if variant == "lab" and k is not None:
        cut = min(k, num_relevant)
    found, total, last = 0, 0.0, 1.0
    for rank in range(1, min(cut, len(hits)) + 1):
        found += int(hits[rank - 1])
        precision = found / rank
        if hits[rank - 1]:
            total += (precision + last) / 2 if variant == "trapezoid" else precision
        last = precision
    cuts = variant in ("std", "lab") and k is not None
    return total / (min(k, num_relevant) if cuts else num_relevant)


@pytest.mark.parametrize("variant", list(AP_VARIANTS))
@pytest.mark.parametrize("k", [None, 1, 7, 128])
def test_agrees_with_a_walk_down_random_lists(variant: str, k: int | None) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        hits = rng.random(rng.integers(0, 60)) < 0.3
        num_relevant = int(hits.sum()) + int(rng.integers(1, 5))
        expected = _naive(variant, hits, num_relevant, k)
        assert AP_VARIANTS[variant](hits, num_relevant, k) == pytest.approx(expected)


@pytest.mark.parametrize("variant", list(AP_VARIANTS))
def test_perfect_list_scores_one_and_empty_list_zero(variant: str) -> None:
    assert AP_VARIANTS[variant](_hits([0, 1, 2], 10), 3, 128) == 1.0
    assert AP_VARIANTS[variant](np.zeros(0, bool), 3, 128) == 0.0


def test_precision_counts_missing_ranks_as_wrong() -> None:
    assert precision_at(WORKED, 5) == pytest.approx(2 / 5)
    assert precision_at(np.array([True, True]), 5) == pytest.approx(2 / 5)


def test_impossible_input_is_refused() -> None:
    with pytest.raises(ValueError, match="k=0"):
        precision_at(WORKED, 0)
    for function in AP_VARIANTS.values():
        with pytest.raises(ValueError, match="k=0"):
            function(WORKED, 6, 0)
    with pytest.raises(ValueError, match=r"\|G\|=0; skip and count queries without one$"):
        AP_VARIANTS["std"](WORKED, 0)
    with pytest.raises(ValueError, match="4 hits"):
        AP_VARIANTS["lab"](WORKED, 3, 128)
