from . import query_roi_heads as _roi_heads  # registration
from .correlation_head import CORRELATION_HEAD_REGISTRY, build_correlation_head
from .meta_arch import QueryRCNN
from .query_rpn import QueryRPN

__all__ = ["CORRELATION_HEAD_REGISTRY", "QueryRCNN", "QueryRPN", "build_correlation_head"]
