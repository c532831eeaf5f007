"""Which pseudo labels the shots agree with: by a vote of nearest neighbours, or by the mean shot.

Beyond the SPIL paper. Shape shorthand: B: boxes, S: shots of all classes, C: distinct classes.
"""

from __future__ import annotations

import math

import numpy as np

METHODS = ("vote", "mean")
"""How labels are verified: `verify_labels`, or `most_similar_labels`."""


def verify_labels(
    similarities: np.ndarray, shot_categories: np.ndarray, box_categories: np.ndarray, k: int
) -> np.ndarray:
    """Whether the k nearest shots of each box vote for its class.

    A shot's vote counts as much as it is similar to the box; one that is not similar at all
    (similarity <= 0) has none. A box of a class that is as strong as the strongest other one stays.

    Args:
        similarities: (B, S) of each box with each shot, higher = nearer.
        shot_categories: (S,) int, the classes of the shots.
        box_categories: (B,) int, the classes that the boxes are labelled with.
        k: voters; all shots where there are fewer. Of equally near ones the first vote.

    Returns:
        (B,) bool.

    Raises:
        ValueError: for k < 1, no shot, or shapes that do not fit.
    """
    similarities = np.asarray(similarities, np.float64)
    shape = (len(box_categories), len(shot_categories))
    if k < 1 or similarities.shape != shape or shape[1] == 0:
        raise ValueError(
            f"a vote needs k >= 1, at least one shot and (boxes, shots) similarities, got k = {k}, "
            f"similarities {similarities.shape}, {shape[0]} boxes and {shape[1]} shots"
        )
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    weights = np.maximum(np.take_along_axis(similarities, nearest, axis=1), 0)
    classes, shot_rows = np.unique(shot_categories, return_inverse=True)
    votes = np.zeros((shape[0], len(classes)))
    np.add.at(votes, (np.arange(shape[0])[:, None], shot_rows[nearest]), weights)
    own = np.where(classes == np.asarray(box_categories)[:, None], votes, 0).max(axis=1)
    return (own > 0) & (own >= votes.max(axis=1))


def most_similar_labels(
    similarities: np.ndarray, shot_categories: np.ndarray, box_categories: np.ndarray, part: float
) -> np.ndarray:
    """The labels of each class that look most like its shots on the average.

    Args:
        similarities, shot_categories, box_categories: as for `verify_labels`.
        part: of each class's labels that stays, rounded up, in (0, 1]; of equal ones the first.

    Returns:
        (B,) bool; a label of a class without shots does not stay.

    Raises:
        ValueError: for another part.
    """
    if not 0 < part <= 1:
        raise ValueError(f"FEW_SHOT.VERIFY.KEEP is {part}: use a part in (0, 1]")
    similarities, box_categories = np.asarray(similarities), np.asarray(box_categories)
    kept = np.zeros(len(box_categories), bool)
    for category in np.intersect1d(box_categories, shot_categories):
        rows = np.flatnonzero(box_categories == category)
        means = similarities[rows][:, np.asarray(shot_categories) == category].mean(axis=1)
        best = np.argsort(-means, kind="stable")[: math.ceil(part * len(rows))]
        kept[rows[best]] = True
    return kept
