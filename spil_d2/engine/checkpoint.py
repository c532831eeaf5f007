"""Checkpoints that a kill in the middle of writing cannot damage."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.utils.file_io import PathManager
from torch import nn


class AtomicPathManager:
    """Detectron2's PathManager, but a file that is written appears whole or not at all.

    Set as `path_manager` of a checkpointer: its checkpoints and `last_checkpoint` are then always
    readable, also where one of them is written again.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> contextlib.AbstractContextManager:
        """As PathManager's; only local files are written."""
        return _replacing(path, mode) if "w" in mode else PathManager.open(path, mode, **kwargs)


def save_weights(model: nn.Module, path: Path) -> None:
    """Publish the weights of a model alone; unlike a checkpoint's, `--resume` ignores the file."""
    with AtomicPathManager().open(str(path), "wb") as file:
        torch.save(model.state_dict(), file)


def load_weights(model: nn.Module, path: Path) -> None:
    """Give a model all weights that `save_weights` has published of it."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


@contextlib.contextmanager
def _replacing(path: str, mode: str) -> Iterator[IO]:
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".tmp-{name}")
    with open(temporary, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
