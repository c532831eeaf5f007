"""Keys of what is kept on disk to save time; no result depends on where, or how much of it, is."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_cache_config(cfg: CN) -> None:
    """Add CACHE."""
    cfg.CACHE = CN()
    # Maps of gallery pictures, which no query has entered yet: a picture that is localized in again
    # with the same backbone is neither decoded nor encoded.
    cfg.CACHE.FEATURES = CN()
    # Folder; runs may share it. "" keeps nothing.
    cfg.CACHE.FEATURES.DIR = ""
    # Its size at most, in 10^9 bytes; what was not used for the longest makes room.
    cfg.CACHE.FEATURES.MAX_GB = 10.0
    # "float16", or "float32", which is exact and twice as large. Maps are rounded to it whether
    # they are read or computed, so that both give the same boxes.
    cfg.CACHE.FEATURES.DTYPE = "float16"
