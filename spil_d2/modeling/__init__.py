"""Localizers, the ranker, detectors of classes, and co-attention; importing registers them."""

from . import attention_rpn as _attention_rpn  # registration
from . import cosine_classifier as _cosine_classifier  # registration
from . import globaltrack_head as _globaltrack_head  # registration
from . import multi_relation_heads as _multi_relation_heads  # registration
from . import query_guided_roi_heads as _guided_roi_heads  # registration
from . import query_roi_heads as _roi_heads  # registration
from .class_detector import ClassRCNN
from .correlation_head import CORRELATION_HEAD_REGISTRY, build_correlation_head
from .meta_arch import QueryRCNN
from .query_rpn import QueryRPN
from .ranker import Ranker

__all__ = [
    "CORRELATION_HEAD_REGISTRY",
    "ClassRCNN",
    "QueryRCNN",
    "QueryRPN",
    "Ranker",
    "build_correlation_head",
]
