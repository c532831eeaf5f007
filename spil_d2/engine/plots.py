"""Curves as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..evaluation import RecallIoUCurve

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_recall_iou(curves: Mapping[str, RecallIoUCurve], path: str | Path) -> None:
    """Write the Recall-IoU plot as a PNG.

    The solid line of a run is its recall over all relevant images; the thin dashed one, in the
    same colour, is over the hits only, which leaves the search out of it.

    Args:
        curves: label of a run -> its curve, at least one.
        path: the PNG file; its folder exists.

    Raises:
        ValueError: where there is no curve.
    """
    if not curves:
        raise ValueError(f"{path}: there is no Recall-IoU curve to draw")
    # Figure without pyplot: no global state, so threads and notebooks are not disturbed.
    figure = Figure(figsize=(7.0, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (label, curve) in enumerate(curves.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        axes.plot(
            curve.thresholds,
            100 * curve.recall,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=2,
            label=label,
        )
        axes.plot(
            curve.thresholds,
            100 * curve.recall_of_hits,
            color=colour,
            linestyle=(0, (4, 3)),
            linewidth=1,
            label=f"{label}, of the images found",
        )
    axes.set(xlabel="IoU threshold", ylabel="Recall (%)", xlim=(0, 1), ylim=(0, 102))
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, format="png")
