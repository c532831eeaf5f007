from .base import SEARCH_ENGINE_REGISTRY, Regions, SearchEngine
from .building import build_search_engine
from .dasr import DASR
from .grid import Grid

__all__ = [
    "DASR",
    "Grid",
    "Regions",
    "SEARCH_ENGINE_REGISTRY",
    "SearchEngine",
    "build_search_engine",
]
