"""Registers on import what lies under $DETECTRON2_DATASETS/ins and in the shared folder.

The folders are read when a data set is first used: a broken one does not break the import.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...utils.shared import find_shared
from .instance_search import register_all_instance_search


def datasets_root() -> Path:
    """Detectron2's root of data sets: $DETECTRON2_DATASETS, else `datasets` in the cwd."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def register_builtin() -> list[str]:
    """Register the user's folders, then the shared ones whose names are still free.

    Returns:
        The names that stand for these folders.
    """
    names = register_all_instance_search(datasets_root() / "ins", keep_taken=True)
    shared = find_shared()
    if shared is not None:
        names += register_all_instance_search(shared / "data", keep_taken=True)
    return names


register_builtin()
