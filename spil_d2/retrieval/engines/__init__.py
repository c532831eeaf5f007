"""The search engines; importing registers them."""

from .base import SEARCH_ENGINE_REGISTRY, LocalizingEngine, Regions, SearchEngine
from .building import build_search_engine
from .cam import CAM
from .crow import CroW
from .dasr import DASR, DASRFast
from .detector import Detector
from .global_pool import GlobalPool
from .grid import Grid
from .rmac import RMAC
from .vit import ViT

__all__ = [
    "CAM",
    "CroW",
    "DASR",
    "DASRFast",
    "Detector",
    "GlobalPool",
    "Grid",
    "LocalizingEngine",
    "RMAC",
    "Regions",
    "SEARCH_ENGINE_REGISTRY",
    "SearchEngine",
    "ViT",
    "build_search_engine",
]
