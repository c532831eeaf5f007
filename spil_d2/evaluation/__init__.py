from .ground_truth import GroundTruth
from .instance_search import InstanceSearchEvaluator, evaluate_rank_lists, search_metrics
from .localization import (
    IOU_THRESHOLDS,
    JudgedList,
    RecallIoUCurve,
    best_ious,
    box_iou,
    localization_metrics,
    recall_iou_curve,
)
from .ranking import (
    AP_VARIANTS,
    average_precision_div_g,
    average_precision_lab,
    average_precision_std,
    average_precision_trapezoid,
    precision_at,
)
from .tables import log_metrics_table

__all__ = [
    "AP_VARIANTS",
    "GroundTruth",
    "IOU_THRESHOLDS",
    "InstanceSearchEvaluator",
    "JudgedList",
    "RecallIoUCurve",
    "average_precision_div_g",
    "average_precision_lab",
    "average_precision_std",
    "average_precision_trapezoid",
    "best_ious",
    "box_iou",
    "evaluate_rank_lists",
    "localization_metrics",
    "log_metrics_table",
    "precision_at",
    "recall_iou_curve",
    "search_metrics",
]
