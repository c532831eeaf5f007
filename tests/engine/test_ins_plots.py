"""Precision-recall curves as pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spil_d2.engine.ins_plots import plot_precision_recall


def test_curves_become_a_picture(tmp_path) -> None:
    curves = {"cycle": np.linspace(1, 0, 101), "pretrained": np.linspace(0.5, 0, 101)}
    plot_precision_recall(curves, tmp_path / "pr.png", "INS-PRW")
    assert cv2.imread(str(tmp_path / "pr.png")).std() > 0


def test_wrong_curves_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no precision-recall curve"):
        plot_precision_recall({}, tmp_path / "pr.png")
    with pytest.raises(ValueError, match="7 precisions"):
        plot_precision_recall({"cycle": np.zeros(7)}, tmp_path / "pr.png")
