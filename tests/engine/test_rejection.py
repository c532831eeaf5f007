"""Rejection curves against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.engine.rejection import plot_rejection_curve, rejection_curve

SCORES = [np.array([0.9, 0.6, 0.4, 0.1]), np.array([0.8, 0.55, 0.05])]
PRESENT = [np.array([True, False, True, False]), np.array([False, True, False])]


def test_counts_by_hand() -> None:
    curve = rejection_curve(SCORES, PRESENT, (0.0, 0.5, 0.7, 0.95))
    assert curve.recall == pytest.approx((1, 2 / 3, 1 / 3, 0))
    assert curve.false_positive_rate == pytest.approx((1, 2 / 4, 1 / 4, 0))
    assert curve.false_positives == pytest.approx((2, 1, 0.5, 0))
    assert curve.precision == pytest.approx((3 / 7, 2 / 4, 1 / 2, 1))
    assert curve.absent_queries == pytest.approx((1, 1, 0.5, 0))
    assert (curve.num_queries, curve.num_present, curve.num_absent) == (2, 3, 4)


def test_a_calibrated_score_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(size=50_000)
    is_present = rng.uniform(size=50_000) < scores
    assert rejection_curve([scores], [is_present]).calibration_error < 0.01
    overconfident = rejection_curve([np.minimum(1, 2 * scores)], [is_present])
    assert overconfident.calibration_error > 0.15


def test_the_error_by_a_loop() -> None:
    curve = rejection_curve(SCORES, PRESENT)
    every, present = np.concatenate(SCORES), np.concatenate(PRESENT)
    expected = 0.0
    for low in range(10):
        inside = [i for i, one in enumerate(every) if low <= one * 10 < low + 1]
        if inside:
            expected += abs(sum(every[i] - present[i] for i in inside)) / len(every)
    assert curve.calibration_error == pytest.approx(expected)


def test_it_can_be_shown(tmp_path) -> None:
    curve = rejection_curve(SCORES, PRESENT)
    plot_rejection_curve(curve, tmp_path / "curve.png", "two queries")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "2 queries; 3 images that show the instance, 4 that do not" in curve.to_table()
    assert curve.to_dict()["num_queries"] == 2


def test_both_kinds_of_images_are_needed() -> None:
    with pytest.raises(ValueError, match="0 images with and 2 without"):
        rejection_curve([np.array([0.1, 0.2])], [np.array([False, False])])
