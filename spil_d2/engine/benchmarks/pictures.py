"""Pictures to measure on: real ones where the shared folder is there, else generated ones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...data.datasets.synthetic import build_demo_gallery
from ...utils.shared import find_shared
from .settings import BenchmarkSettings

_REAL = "instre_dev"


@contextmanager
def picture_folder(settings: BenchmarkSettings) -> Iterator[Path]:
    """An instance-search data set: `instre_dev` of the shared folder, or generated pictures.

    The small size always has generated ones, the same wherever it runs.
    """
    shared = None if settings.is_small else find_shared()
    if shared is not None and (shared / "data" / _REAL).is_dir():
        yield shared / "data" / _REAL
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "generated"
        build_demo_gallery(root, num_instances=2, images_per_instance=6, num_distractors=2)
        yield root
