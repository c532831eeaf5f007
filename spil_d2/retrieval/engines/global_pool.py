"""One vector for a picture: SPoC, GeM, MAC and uCroW (a picture's box is the whole of it)."""

from __future__ import annotations

from .base import SEARCH_ENGINE_REGISTRY
from .pooled import PooledSearchEngine


@SEARCH_ENGINE_REGISTRY.register()
class GlobalPool(PooledSearchEngine):
    """The whole picture, or the map's crop under a query's box, pooled as SEARCH.POOLINGS says.

    "spoc", "gem" and "max" (MAC) are the published poolings; "mean" is uCroW, whose sum differs
    from it in length alone.
    """
