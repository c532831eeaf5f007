"""Every format that a user can hand us, by name."""

from __future__ import annotations

from .artefact_formats import ARTEFACTS
from .base import Format
from .dataset_formats import DATASETS
from .picture_formats import PICTURES
from .weight_formats import WEIGHTS

FORMATS: dict[str, Format] = {one.name: one for one in (*DATASETS, *PICTURES, *ARTEFACTS, *WEIGHTS)}
