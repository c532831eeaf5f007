"""Metrics in numpy, the protocols that they judge by, and Detectron2's evaluators on top."""

from .few_shot import FewShotCOCOEvaluator, group_metrics, mean_interval
from .ground_truth import GroundTruth
from .ins_evaluator import (
    SearchReport,
    evaluate_localizer,
    evaluate_regions,
    judge,
    judge_regions,
    read_subset,
    select_regions,
)
from .ins_metrics import (
    QueryBoxes,
    QueryOutcome,
    ins_metrics,
    judge_query,
    precision_recall_curve,
)
from .ins_predictions import PredictionError, Predictions, read_predictions
from .ins_protocol import (
    PRESETS,
    Protocol,
    ProtocolQuery,
    ProtocolRules,
    QueryTruth,
    build_protocol,
)
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
from .protocol_sources import annotation_protocol, dataset_protocol, read_protocol
from .ranker_metrics import Crops, gallery_crops, query_crops, ranker_metrics
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
    "Crops",
    "FewShotCOCOEvaluator",
    "GroundTruth",
    "IOU_THRESHOLDS",
    "InstanceSearchEvaluator",
    "JudgedList",
    "PRESETS",
    "PredictionError",
    "Predictions",
    "Protocol",
    "ProtocolQuery",
    "ProtocolRules",
    "QueryBoxes",
    "QueryOutcome",
    "QueryTruth",
    "RecallIoUCurve",
    "SearchReport",
    "annotation_protocol",
    "average_precision_div_g",
    "average_precision_lab",
    "average_precision_std",
    "average_precision_trapezoid",
    "best_ious",
    "box_iou",
    "build_protocol",
    "dataset_protocol",
    "evaluate_localizer",
    "evaluate_rank_lists",
    "evaluate_regions",
    "gallery_crops",
    "group_metrics",
    "ins_metrics",
    "judge",
    "judge_query",
    "judge_regions",
    "localization_metrics",
    "log_metrics_table",
    "mean_interval",
    "precision_at",
    "precision_recall_curve",
    "query_crops",
    "ranker_metrics",
    "read_predictions",
    "read_protocol",
    "read_subset",
    "recall_iou_curve",
    "search_metrics",
    "select_regions",
]
