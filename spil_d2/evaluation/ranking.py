"""How well a rank list is ordered: precision and four readings of average precision.

Papers on instance search print "mAP" for different numbers. All of them are here under a name, so
that a table can say which one it shows. Everything is a fraction in [0, 1], pure numpy.

Shape shorthand: R ranked images, best first, the query's own images already taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import numpy as np

APFunction = Callable[[np.ndarray, int, "int | None"], float]


def precision_at(hits: np.ndarray, k: int) -> float:
    """The part of the first k ranks that is relevant.

    Args:
        hits: (R,) bool, whether the image at each rank is relevant.
        k: the cut, at least 1. Ranks that a shorter list does not fill count as wrong.

    Returns:
        A fraction in [0, 1].
    """
    _check_cut(k)
    return float(np.count_nonzero(np.asarray(hits, bool)[:k]) / k)


def average_precision_std(hits: np.ndarray, num_relevant: int, k: int | None = None) -> float:
    """Sum of the precision at each hit in the first k ranks, over min(k, |G|).

    Args:
        hits: (R,) bool, whether the image at each rank is relevant.
        num_relevant: |G|, the relevant images of the gallery, found or not; at least 1.
        k: the cut; None takes the whole list.

    Returns:
        A fraction in [0, 1]; 1 where the first min(k, |G|) ranks are all relevant.

    Raises:
        ValueError: for a cut or |G| below 1, or more hits than |G|.
    """
    hits = _checked(hits, num_relevant, k)
    return _precision_sum(hits[:k]) / _cut_or(k, num_relevant)


def average_precision_div_g(hits: np.ndarray, num_relevant: int, k: int | None = None) -> float:
    """Like `average_precision_std`, but over |G|: a cut below |G| can never reach 1."""
    hits = _checked(hits, num_relevant, k)
    return _precision_sum(hits[:k]) / num_relevant


def average_precision_lab(hits: np.ndarray, num_relevant: int, k: int | None = None) -> float:
    """Sum of the precision at each hit in the first L = min(k, |G|) ranks, over L.

    The list itself ends at L: a hit beyond rank |G| adds nothing. This is how the numbers of
    DASR and SPIL were computed. With `k` None they take the whole list over |G|, and so does this.
    Arguments as for `average_precision_std`.
    """
    hits = _checked(hits, num_relevant, k)
    length = None if k is None else min(k, num_relevant)
    return _precision_sum(hits[:length]) / _cut_or(k, num_relevant)


def average_precision_trapezoid(hits: np.ndarray, num_relevant: int, k: int | None = None) -> float:
    """Area under the precision-recall polygon, the protocol of Oxford5k and INSTRE.

    Each hit adds the mean of the precision just before and at it, over |G|. The protocol is
    defined on the whole ranked gallery (`k` None); with a cut only the hits above it add.
    Arguments as for `average_precision_std`.
    """
    hits = _checked(hits, num_relevant, k)[:k]
    positions = np.flatnonzero(hits)
    found_before = np.arange(len(positions))
    # Nothing precedes rank 0, where the protocol sets the precision to 1.
    before = np.where(positions == 0, 1.0, found_before / np.maximum(positions, 1))
    at = (found_before + 1) / (positions + 1)
    return float(np.sum((before + at) / 2) / num_relevant)


AP_VARIANTS: MappingProxyType[str, APFunction] = MappingProxyType(
    {
        "std": average_precision_std,
        "divG": average_precision_div_g,
        "lab": average_precision_lab,
        "trapezoid": average_precision_trapezoid,
    }
)
"""The name a metric key carries -> the function."""


def _precision_sum(hits: np.ndarray) -> float:
    positions = np.flatnonzero(hits)
    return float(np.sum(np.arange(1, len(positions) + 1) / (positions + 1)))


def _cut_or(k: int | None, num_relevant: int) -> int:
    return num_relevant if k is None else min(k, num_relevant)


def _check_cut(k: int) -> None:
    if k < 1:
        raise ValueError(f"a rank list is cut at k >= 1, got k={k}")


def _checked(hits: np.ndarray, num_relevant: int, k: int | None) -> np.ndarray:
    if k is not None:
        _check_cut(k)
    hits = np.asarray(hits, bool)
    if num_relevant < 1:
        raise ValueError(
            f"average precision needs at least one relevant image, got |G|={num_relevant}; "
            "skip and count queries without one"
        )
    if (found := np.count_nonzero(hits)) > num_relevant:
        raise ValueError(f"{found} hits, but only |G|={num_relevant} relevant images exist")
    return hits
