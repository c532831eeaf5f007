"""A run's numbers in one small file."""

from __future__ import annotations

K = 128


def summarize(
    search: dict,
    stages: list[dict | None],
    final: dict,
    seconds: float,
    extra: dict | None = None,
) -> dict:
    """The keys of `summary.json`; metrics come in percent and leave as fractions of 1.

    Args:
        search: metrics of the search engine's lists (`evaluate_rank_lists`).
        stages: of what each stage reached, in order; None for a stage that was not judged.
        final: of the final lists; with "search_reranked" where they were re-ranked.
        seconds: of the whole run, all resumed parts together.
        extra: further keys.

    Returns:
        `miou_search`, `miou_final`, `miou_stage` (a list): mean IoU over true positives in the
        top 128, of the final boxes and of what the localizer found after each stage (None for a
        stage that was not judged); `corloc_*`; `ap128_std_search` and `ap128_std` (after re-ranking
        by the final boxes); `auc_p`, where the localizer has judged right and wrong images;
        `seconds`.
    """
    miou = f"mIoU_TP@{K}"
    ranked = final.get("search_reranked", final["search"])
    auc = final["localization"].get(f"AUC_p@{K}")
    return {
        "miou_search": search["localization"][miou] / 100,
        "miou_stage": [one and one["localization"][miou] / 100 for one in stages],
        "miou_final": final["localization"][miou] / 100,
        "corloc50_search": search["localization"][f"CorLoc50@{K}"] / 100,
        "corloc50_final": final["localization"][f"CorLoc50@{K}"] / 100,
        "ap128_std_search": search["search"][f"AP_std@{K}"] / 100,
        "ap128_std": ranked[f"AP_std@{K}"] / 100,
        **({} if auc is None else {"auc_p": auc / 100}),
        "seconds": round(seconds, 1),
        **(extra or {}),
    }
