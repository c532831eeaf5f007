"""Registers on import what lies under $DETECTRON2_DATASETS and in the shared folder.

The folders are read when a data set is first used: a broken one does not break the import.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...utils.shared import find_shared
from .few_shot_builtin import register_few_shot_builtin
from .instance_335 import register_instance_335
from .instance_search import register_all_instance_search
from .instre import register_instre
from .person_search import register_person_search


def datasets_root() -> Path:
    """Detectron2's root of data sets: $DETECTRON2_DATASETS, else `datasets` in the cwd."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def register_builtin() -> list[str]:
    """Register the user's folders, published datasets, then shared folders of names still free.

    Returns:
        The names that stand for these folders.
    """
    root = datasets_root()
    names = register_all_instance_search(root / "ins", keep_taken=True)
    for register in (register_person_search, register_instre, register_instance_335):
        names += register(root)
    names += register_few_shot_builtin(Path(os.path.abspath(root)))
    shared = find_shared()
    if shared is not None:
        names += register_all_instance_search(shared / "data", keep_taken=True)
        names += register_few_shot_builtin(shared / "data")
    return names


register_builtin()
