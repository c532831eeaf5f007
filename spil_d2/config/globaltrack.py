"""Keys of CST's localizer: GlobalTrack's modulators as a correlation head."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_globaltrack_config(cfg: CN) -> None:
    """Adds to MODEL.QUERY and MODEL.CORRELATION_HEAD, so it comes after `add_query_config`."""
    # The query's picture: "crop" (its box with context, CROP_*) or "image" (the whole picture with
    # the box, resized as gallery pictures in tests; CST's "large_bbox").
    cfg.MODEL.QUERY.FORMAT = "crop"
    # Levels that the query's region is pooled from; [] is IN_FEATURES.
    cfg.MODEL.QUERY.POOLER_IN_FEATURES = []
    # As ROI_BOX_HEAD's keys of these names, for the query's region.
    cfg.MODEL.QUERY.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.QUERY.POOLER_SAMPLING_RATIO = 0
    # All queries of an image share the mean of their kernels: one pass, and the same boxes and
    # probabilities for all of them. Much faster and not query-specific (the official INS configs).
    cfg.MODEL.QUERY.SHARED_TEMPLATE = False
    # Of the correlation head "GlobalTrack", whose kernels are regions of QUERY.POOLER_RESOLUTION
    # cells a side; it goes with ROI_HEADS.NAME "QueryGuidedROIHeads".
    cfg.MODEL.GLOBALTRACK = CN()
    # Width of the modulated maps and regions; 0 is that of the levels (the official network).
    cfg.MODEL.GLOBALTRACK.CHANNELS = 0
    # The RPN modulators weigh each channel of the query's region by itself, for wide maps.
    cfg.MODEL.GLOBALTRACK.DEPTHWISE = False
