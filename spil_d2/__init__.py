"""Instance search with localization on Detectron2. Importing registers models and datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import backbones as _backbones  # noqa: F401  registration
from . import data as _data  # noqa: F401  registration
from . import modeling as _modeling  # noqa: F401  registration
from . import retrieval as _retrieval  # noqa: F401  registration
from .config import add_spil_d2_config, get_cfg

if TYPE_CHECKING:
    from .engine.searcher import QueryImage, Searcher

__version__ = "0.1.0"

__all__ = ["QueryImage", "Searcher", "__version__", "add_spil_d2_config", "get_cfg"]


def __getattr__(name: str) -> Any:
    """`Searcher` and `QueryImage`, imported when they are first asked for."""
    if name in ("QueryImage", "Searcher"):
        from .engine import searcher

        return getattr(searcher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
