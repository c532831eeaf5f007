"""What all tests share."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import BaseContext

import pytest

# Importing them takes a process ten times as long as importing spil_d2 after them.
LIBRARIES = (
    *("torch", "torchvision", "detectron2.engine", "detectron2.modeling", "detectron2.data"),
    *("detectron2.evaluation", "detectron2.utils.visualizer", "matplotlib.pyplot", "cv2"),
    *("sklearn.cluster", "skimage.segmentation", "scipy.optimize", "pycocotools.coco", "faiss"),
    *("pytorch_metric_learning.losses", "tabulate", "typer", "fastapi"),
)


@pytest.fixture(scope="session", autouse=True)
def forked_processes() -> Iterator[None]:
    """Processes that would start empty are forks of one that has imported the libraries.

    They have nothing of the process of the tests, and import spil_d2 and the program themselves.
    """
    start = multiprocessing.get_context

    def get_context(method: str | None = None) -> BaseContext:
        return start("forkserver" if method == "spawn" else method)

    multiprocessing.set_forkserver_preload(list(LIBRARIES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", get_context)
        yield


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
