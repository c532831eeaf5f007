"""Precision-recall curves of the INS protocols as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..evaluation.ins_metrics import RECALL_LEVELS

# Okabe and Ito's colours, told apart by colour-blind readers; the dashes tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")


def plot_precision_recall(
    curves: Mapping[str, np.ndarray], path: str | Path, title: str = ""
) -> None:
    """Write precision-recall curves as a PNG (Fig. 8 of the CST paper).

    Args:
        curves: label of a search -> its (101,) precisions at `RECALL_LEVELS`, fractions; the
            legend adds the mean of the curve.
        path: the PNG file; its folder exists.
        title: above the plot.

    Raises:
        ValueError: where there is no curve, or one of another length.
    """
    if not curves:
        raise ValueError(f"{path}: there is no precision-recall curve to draw")
    # Figure without pyplot: no global state, so threads and notebooks are not disturbed.
    figure = Figure(figsize=(6.4, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (label, precision) in enumerate(curves.items()):
        if len(precision) != len(RECALL_LEVELS):
            raise ValueError(f"{label}: {len(precision)} precisions, not {len(RECALL_LEVELS)}")
        axes.plot(
            100 * RECALL_LEVELS,
            100 * precision,
            color=_COLOURS[i % len(_COLOURS)],
            linestyle=_DASHES[i // len(_COLOURS) % len(_DASHES)],
            linewidth=2,
            label=f"{label} ({100 * precision.mean():.1f})",
        )
    axes.set(xlabel="Recall (%)", ylabel="Precision (%)", xlim=(0, 100), ylim=(0, 102), title=title)
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, format="png")
