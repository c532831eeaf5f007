"""Rejection curves: what a threshold on the score costs in recall and saves in false positives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tabulate import tabulate

THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_BINS = 10


@dataclass(frozen=True)
class RejectionCurve:
    """Shape shorthand: T thresholds.

    Attributes:
        thresholds: (T,) on the score; images that reach it are accepted.
        recall: (T,) part of the images with the instance that are accepted.
        false_positive_rate: (T,) part of the images without it that are accepted.
        false_positives: (T,) such images a query.
        precision: (T,) part of the accepted images that have it; 1 where none is accepted.
        absent_queries: (T,) part of the queries that would get any answer, were the instance in no
            image at all.
        num_queries, num_present, num_absent: what was counted.
        calibration_error: mean over images of |mean score - part with the instance| of their bin
            of scores; over all images, of which most have a score near 0.
        bins: (mean score, part with the instance, images) of each bin that is not empty.
    """

    thresholds: tuple[float, ...]
    recall: tuple[float, ...]
    false_positive_rate: tuple[float, ...]
    false_positives: tuple[float, ...]
    precision: tuple[float, ...]
    absent_queries: tuple[float, ...]
    num_queries: int
    num_present: int
    num_absent: int
    calibration_error: float
    bins: tuple[tuple[float, float, int], ...]

    def to_dict(self) -> dict:
        """JSON-like."""
        return asdict(self)

    def to_table(self) -> str:
        """Two Markdown tables: the curve, and the calibration."""
        names = [
            "score >=",
            "recall",
            "precision",
            "false positives a query",
            "part of absent images",
            "queries answered though absent",
        ]
        rows = zip(
            self.thresholds,
            self.recall,
            self.precision,
            self.false_positives,
            self.false_positive_rate,
            self.absent_queries,
        )
        formats = ("g", ".3f", ".3f", ".2f", ".5f", ".3f")
        curve = tabulate(rows, names, tablefmt="pipe", floatfmt=formats)
        names = ["mean score", "part that shows the instance", "images"]
        bins = tabulate(self.bins, names, tablefmt="pipe", floatfmt=(".3f", ".3f", "g"))
        return (
            f"{self.num_queries} queries; {self.num_present} images that show the instance, "
            f"{self.num_absent} that do not; expected calibration error "
            f"{self.calibration_error:.4f}\n\n{curve}\n\n{bins}"
        )


def rejection_curve(
    scores: Sequence[np.ndarray],
    present: Sequence[np.ndarray],
    thresholds: Sequence[float] = THRESHOLDS,
) -> RejectionCurve:
    """Count over all queries.

    Args:
        scores: (N_q,) of each query, of all images that may be ranked for it.
        present: (N_q,) bool, whether the image shows the query's instance.
        thresholds: rising.

    Raises:
        ValueError: there is no image with, or none without, the instance of its query.
    """
    every = np.concatenate(scores)
    is_present = np.concatenate(present).astype(bool)
    positive, negative = every[is_present], every[~is_present]
    if not len(positive) or not len(negative):
        raise ValueError(
            f"{len(positive)} images with and {len(negative)} without the instance of their query: "
            "a rejection curve needs both"
        )
    highest = [
        one[~np.asarray(there, bool)].max(initial=0.0) for one, there in zip(scores, present)
    ]
    found, false, absent = [], [], []
    for threshold in thresholds:
        found.append(int((positive >= threshold).sum()))
        false.append(int((negative >= threshold).sum()))
        absent.append(float(np.mean(np.array(highest) >= threshold)))
    error, bins = _calibration(every, is_present)
    return RejectionCurve(
        thresholds=tuple(thresholds),
        recall=tuple(one / len(positive) for one in found),
        false_positive_rate=tuple(one / len(negative) for one in false),
        false_positives=tuple(one / len(scores) for one in false),
        precision=tuple(a / (a + b) if a + b else 1.0 for a, b in zip(found, false)),
        absent_queries=tuple(absent),
        num_queries=len(scores),
        num_present=len(positive),
        num_absent=len(negative),
        calibration_error=error,
        bins=bins,
    )


def _calibration(
    scores: np.ndarray, is_present: np.ndarray
) -> tuple[float, tuple[tuple[float, float, int], ...]]:
    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    bins = []
    for one in np.unique(place):
        inside = place == one
        bins.append(
            (float(scores[inside].mean()), float(is_present[inside].mean()), int(inside.sum()))
        )
    error = sum(count * abs(mean - part) for mean, part, count in bins) / len(scores)
    return float(error), tuple(bins)


def plot_rejection_curve(curve: RejectionCurve, path: str | Path, title: str) -> None:
    """Write recall against false positives a query, and the calibration beside it, as a PNG.

    Args:
        curve: to draw.
        path: the PNG file; its folder exists.
        title: above both.
    """
    # Figure without pyplot: no global state, so threads and notebooks are not disturbed.
    figure = Figure(figsize=(9.0, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(curve.false_positives, curve.recall, marker="o", markersize=4, color="#0072B2")
    for x, y, threshold in zip(curve.false_positives, curve.recall, curve.thresholds):
        left.annotate(f"{threshold:g}", (x, y), (4, -9), textcoords="offset points", fontsize=7)
    left.set(xlabel="false positives a query", ylabel="recall", ylim=(0, 1.02))
    left.set_xscale("symlog", linthresh=0.1)
    right.plot((0, 1), (0, 1), color="#888888", linestyle="--", linewidth=1)
    means, parts, _ = zip(*curve.bins)
    right.plot(means, parts, marker="s", markersize=4, color="#D55E00")
    right.set(xlabel="score", ylabel="part that shows the instance", xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(color="#d8d8d8", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, format="png")
