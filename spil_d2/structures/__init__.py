"""What crosses a layer, a process or the disk: frozen, validated dataclasses."""

from .clusters import NOISE, ClusterAssignment
from .pair import QUERY, Pair
from .query import Box, Query, Reference
from .rank_list import RankList, RankLists
from .region_list import RegionList, RegionLists
from .sample_pool import Candidate, QueryPool, SamplePool, Target
from .search_hit import SearchHit

__all__ = [
    "NOISE",
    "QUERY",
    "Box",
    "Candidate",
    "ClusterAssignment",
    "Pair",
    "Query",
    "QueryPool",
    "RankList",
    "RankLists",
    "Reference",
    "RegionList",
    "RegionLists",
    "SamplePool",
    "SearchHit",
    "Target",
]
