"""Where the optional shared material (data sets, weights, specifications) lies on this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "SPIL_D2_SHARED"


def find_shared() -> Path | None:
    """Find the folder with shared data sets and weights.

    Returns:
        $SPIL_D2_SHARED where it is set, else the folder `shared` beside the checkout (next to the
        folder that holds `spil_d2/`). None where that folder does not exist; a variable that names
        no folder is reported as a warning.
    """
    named = os.getenv(ENVIRONMENT_VARIABLE)
    if named:
        folder = Path(named).expanduser().resolve()
        if not folder.is_dir():
            logger.warning("$%s is %r, which is not a folder", ENVIRONMENT_VARIABLE, named)
            return None
        return folder
    checkout = Path(__file__).resolve().parents[2]
    beside = checkout.parent / "shared"
    return beside if beside.is_dir() else None
