from .pair import QUERY, Pair
from .query import Box, Query, Reference
from .rank_list import RankList, RankLists
from .sample_pool import Candidate, QueryPool, SamplePool, Target
from .search_hit import SearchHit

__all__ = [
    "QUERY",
    "Box",
    "Candidate",
    "Pair",
    "Query",
    "QueryPool",
    "RankList",
    "RankLists",
    "Reference",
    "SamplePool",
    "SearchHit",
    "Target",
]
