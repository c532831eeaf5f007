"""Gradient accumulation: a batch goes through the model in parts, with one optimizer step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

from detectron2.engine import SimpleTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..modeling.meta_arch import has_negative

_BOX_LOSSES = ("loss_rpn_loc", "loss_box_reg")


class AccumulatingTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with less memory: see `accumulate_gradients`."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: Optimizer,
        parts: int,
        box_normalizer: str = "all",
    ):
        """
        Args:
            model, data_loader, optimizer: as SimpleTrainer's.
            parts: of each batch; they divide its size.
            box_normalizer: SPIL.BOX_NORMALIZER of the model.
        """
        super().__init__(model, data_loader, optimizer)
        self._parts = parts
        self._box_normalizer = box_normalizer

    def run_step(self) -> None:
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = accumulate_gradients(self.model, batch, self._parts, self._box_normalizer)
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()


def accumulate_gradients(
    model: nn.Module, batch: Sequence[dict], parts: int, box_normalizer: str = "all"
) -> dict[str, Tensor]:
    """Add the gradients of a batch's losses to the parameters, one part of it after the other.

    A part counts by its share of what a loss is the mean over: the maps (an item has one, and
    another one with a foreign query), or the maps that have a box (one an item). So the RPN's
    losses are those of the whole batch; so are the RoI heads' wherever all maps have equally many
    sampled RoIs (classes, boxes) and positives (masks). Else a part's means are over its own RoIs,
    as they would be with a process for each part.

    Args:
        model: training items -> losses.
        batch: training items of QueryRCNN.
        parts: divides the size of the batch.
        box_normalizer: SPIL.BOX_NORMALIZER of the model: what box losses are means over.

    Returns:
        The losses of the whole batch, detached.
    """
    assert len(batch) % parts == 0, f"{len(batch)} items in {parts} parts"
    size = len(batch) // parts
    num_maps = sum(1 + has_negative(item) for item in batch)
    over_boxed = {"loss_mask", *(_BOX_LOSSES if box_normalizer == "positive" else ())}
    total: dict[str, Tensor] = {}
    for start in range(0, len(batch), size):
        part = batch[start : start + size]
        share = sum(1 + has_negative(item) for item in part) / num_maps
        with _gradients_kept_local(model, is_last=start + size == len(batch)):
            losses = {
                name: (1 / parts if name in over_boxed else share) * loss
                for name, loss in model(part).items()
            }
            sum(losses.values()).backward()
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss.detach()
    return total


def _gradients_kept_local(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
    """Processes exchange their gradients once, with the last part's backward pass."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()
