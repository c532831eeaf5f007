"""Which pseudo labels the shots of all classes agree with: a vote of nearest neighbours.

Beyond the SPIL paper. Shape shorthand: B: boxes, S: shots of all classes, C: distinct classes.
"""

from __future__ import annotations

import numpy as np


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
