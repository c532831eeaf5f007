"""Checkpoints that a kill in the middle of writing cannot damage."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.utils.file_io import PathManager
from torch import nn

from ..utils.artifacts import replaced_file
from ..utils.checkpoints import read_state
from ..utils.reading import UnreadableFileError


class AtomicPathManager:
    """Detectron2's PathManager, but a file that is written appears whole or not at all.

    Set as `path_manager` of a checkpointer: its checkpoints and `last_checkpoint` are then always
    readable, also where one of them is written again.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> contextlib.AbstractContextManager:
        """As PathManager's; only local files are written.

        Raises:
            DiskError: the disk is full or read-only; nothing of a new file is left behind.
        """
        if "w" not in mode:
            return PathManager.open(path, mode, **kwargs)
        return replaced_file(Path(path), mode)


class FinalCheckpointer(hooks.PeriodicCheckpointer):
    """PeriodicCheckpointer; a run killed before `model_final.pth`, but with the last iteration in
    a checkpoint, gets the file when it is resumed."""

    def before_train(self) -> None:
        super().before_train()
        name, checkpointer = f"{self.file_prefix}_final.pth", self.checkpointer
        if self.trainer.start_iter != self.max_iter or not checkpointer.has_checkpoint():
            return
        last = Path(checkpointer.get_checkpoint_file())
        if last.name != name:
            with replaced_file(last.with_name(name), "wb") as target, open(last, "rb") as source:
                shutil.copyfileobj(source, target)
            checkpointer.tag_last_checkpoint(name)


def save_weights(model: nn.Module, path: Path) -> None:
    """Publish the weights of a model alone; unlike a checkpoint's, `--resume` ignores the file."""
    with AtomicPathManager().open(str(path), "wb") as file:
        torch.save(model.state_dict(), file)


def load_weights(model: nn.Module, path: Path) -> None:
    """Give a model all weights that `save_weights` has published of it.

    Raises:
        FileNotFoundError, UnreadableFileError: there is no such file, or it is of another model.
    """
    state = read_state(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise UnreadableFileError(path, f"holds weights of another model: {told}") from error
