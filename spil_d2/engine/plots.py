"""Curves as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
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
    figure, axes = _new_figure()
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
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(path, format="png")


def plot_lines(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    x_label: str,
    y_label: str,
) -> None:
    """Write lines through points (x, y) as a PNG; both axes begin at 0.

    Args:
        lines: label -> points, by x.
        path: the PNG file; its folder exists.
        x_label, y_label: with the unit.
    """
    figure, axes = _new_figure()
    for i, (label, points) in enumerate(lines.items()):
        x, y = [one[0] for one in points], [one[1] for one in points]
        axes.plot(x, y, color=_COLOURS[i % len(_COLOURS)], linewidth=2, label=label)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, format="png")


def _new_figure() -> tuple[Figure, Axes]:
    # Figure without pyplot: no global state, so threads and notebooks are not disturbed.
    figure = Figure(figsize=(7.0, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
