"""What all tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def plain_loggers() -> Iterator[None]:
    """Programs that a test runs set up loggers for the whole process; the next module starts plain.

    Else `caplog` would see nothing of a logger that no longer propagates.
    """
    yield
    for name in ("spil_d2", "detectron2", "fvcore"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
