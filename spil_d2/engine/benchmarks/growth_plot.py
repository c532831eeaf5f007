"""The plot of `growth`: seconds against linear growth, and memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_growth(report: Mapping[str, Any], path: str | Path) -> None:
    """Write a report of `growth` as a PNG.

    On the left how often the smallest gallery's seconds a larger one takes, beside a dashed line
    for linear growth; on the right the memory that no file backs.

    Args:
        report: of `run_benchmark`.
        path: the PNG file; its folder exists.

    Raises:
        ValueError: it is the report of another benchmark.
    """
    if report["benchmark"] != "growth":
        raise ValueError(f"{path}: a report of {report['benchmark']!r} has no growth to draw")
    # Figure without pyplot: no global state, so threads and notebooks are not disturbed.
    figure = Figure(figsize=(9.6, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = (_plain_axes(figure, place) for place in (1, 2))
    factors = [1.0]
    for row, colour, marker in zip(report["rows"], _COLOURS, _MARKERS):
        factors = [size / row["images"][0] for size in row["images"]]
        style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.8}
        times = [seconds / row["seconds"][0] for seconds in row["seconds"]]
        left.plot(factors, times, label=row["case"], **style)
        right.plot(factors, row["own_mib"], label=row["case"], **style)
    left.plot(factors, factors, color="#666666", linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    left.set_yscale("log", base=2)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(factors, [f"{factor:g}x" for factor in factors])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("gallery")
    ticks = [2**i for i in range(8) if 2**i <= 1.2 * left.get_ylim()[1]]
    left.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    left.set_title("processor seconds (dashed: linear)", fontsize=10, loc="left")
    right.set_title("peak memory without mapped files, MiB", fontsize=10, loc="left")
    right.set_ylim(bottom=0)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.savefig(path, format="png")


def _plain_axes(figure: Figure, place: int) -> Axes:
    axes = figure.add_subplot(1, 2, place)
    axes.grid(color="#d8d8d8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
