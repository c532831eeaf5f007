"""An iteration against Mask R-CNN's, and loss curves, in their small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from spil_d2.engine.benchmarks import BenchmarkSettings, run_benchmark
from spil_d2.engine.benchmarks.training import count_gmac
from spil_d2.engine.benchmarks.training_curves import _figures

from ...programs import restored_loggers

TINY = Path(__file__).parents[3] / "configs" / "Base-SPIL-tiny.yaml"


def test_iterations_learn_from_the_same_pictures_and_curves_agree() -> None:
    settings = BenchmarkSettings(size="small", repeats=1, config_files=(TINY,))
    with restored_loggers():
        detector, parts, mixed = run_benchmark("training", settings)["rows"]
    assert detector["max_abs_diff"] < 1e-5
    assert detector["batch"] == 2
    # Vectors of a frozen backbone are kept: no crop goes through it.
    assert detector["crops_gmac"] == 0 < detector["our_gmac"] < detector["reference_gmac"]
    slower = detector["our_seconds"] / detector["reference_seconds"]
    operations = detector["our_gmac"] / detector["reference_gmac"]
    assert detector["overhead"] == pytest.approx(slower / operations - 1)
    assert detector["data_share"] == detector["data_seconds"] / detector["our_seconds"] > 0
    for row in (parts, mixed):
        assert 0 < row["max_abs_diff"] < 0.2 * row["first_loss"]
        assert 0 < row["mean_abs_diff"] < 0.2 * row["first_loss"]
        # Random weights make much of a rounding, and of another sampled anchor as much.
        assert row["mean_abs_diff"] < 3 * row["noise"]


def test_noise_is_between_seeds_and_the_difference_to_each_of_them() -> None:
    references = [np.array([0.0, 0.0]), np.array([1.0, 1.0]), np.array([2.0, 4.0])]
    figures = _figures(references, np.array([1.0, 1.0]))
    # By hand: |0 - 1|, |0 - (2, 4)| and |1 - (2, 4)|; 1, 0 and 2.
    assert figures["noise"] == pytest.approx((1 + 3 + 2) / 3)
    assert figures["mean_abs_diff"] == pytest.approx((1 + 0 + 2) / 3)


@pytest.mark.parametrize("learns_picture", [False, True])
def test_operations_by_hand(learns_picture: bool) -> None:
    """A 3 x 3 convolution, forwards, to its weights and, where it is wanted, to its input."""
    convolution = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False)
    picture = torch.zeros(2, 4, 16, 16, requires_grad=learns_picture)
    found = count_gmac(lambda: convolution(picture).sum().backward())
    once = 2 * 16 * 16 * 8 * 4 * 9
    assert found == pytest.approx((3 if learns_picture else 2) * once / 1e9)
