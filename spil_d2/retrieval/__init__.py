"""From a gallery to rank lists: engines, the index of regions, search and re-ranking."""

from .engines import DASR, SEARCH_ENGINE_REGISTRY, Grid, Regions, SearchEngine, build_search_engine
from .index import RegionIndex, create_region_index, open_region_index
from .search import build_index, embed_queries, search, write_index
from .whitening import Whitening

__all__ = [
    "DASR",
    "Grid",
    "RegionIndex",
    "Regions",
    "SEARCH_ENGINE_REGISTRY",
    "SearchEngine",
    "Whitening",
    "build_index",
    "build_search_engine",
    "create_region_index",
    "embed_queries",
    "open_region_index",
    "search",
    "write_index",
]
