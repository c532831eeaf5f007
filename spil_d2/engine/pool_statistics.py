"""What a stage has decided, in numbers."""

from __future__ import annotations

import numpy as np

from ..evaluation import GroundTruth, best_ious
from ..structures import SamplePool


def pool_statistics(pool: SamplePool, ground_truth: GroundTruth | None) -> dict[str, float]:
    """Scalars for the log of a stage.

    Returns:
        `kept` and `total` candidates, `kept_ratio`, `kept_per_query`, `mean_weight` (ω of the
        pseudo labels), `few_confident` (part of the queries with fewer than 5), and, where ground
        truth exists, `image_precision` (part of the pseudo labels on images that show the instance)
        and `pseudo_iou` (mean IoU of those with the instance).
    """
    kept = [
        (one.query_id, candidate.image_id, candidate.target)
        for one in pool.queries
        for candidate in one.candidates
        if candidate.target is not None
    ]
    total = sum(len(one.candidates) for one in pool.queries)
    counts = [len(one.confident) for one in pool.queries]
    statistics = {
        "kept": len(kept),
        "total": total,
        "kept_ratio": len(kept) / max(total, 1),
        "kept_per_query": float(np.mean(counts)) if counts else 0.0,
        "mean_weight": float(np.mean([t.weight for _, _, t in kept])) if kept else 0.0,
        "few_confident": float(np.mean([c < 5 for c in counts])) if counts else 0.0,
    }
    if ground_truth is not None and kept:
        statistics.update(_against_truth(kept, ground_truth))
    return statistics


def _against_truth(kept: list, ground_truth: GroundTruth) -> dict[str, float]:
    known = [one for one in kept if one[0] in ground_truth.relevant]
    right = [one for one in known if one[1] in ground_truth.relevant[one[0]]]
    ious = [
        float(
            best_ious(
                np.array([target.box], np.float32),
                [ground_truth.relevant[query_id][image_id]],
            )[0]
        )
        for query_id, image_id, target in right
    ]
    return {
        "image_precision": len(right) / max(len(known), 1),
        "pseudo_iou": float(np.mean(ious)) if ious else 0.0,
    }
