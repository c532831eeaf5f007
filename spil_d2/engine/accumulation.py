"""A batch goes through the model in parts, with one optimizer step; in mixed precision, too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
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
        *,
        seed: int = 0,
        precision: torch.dtype = torch.float32,
    ):
        """
        Args:
            model, data_loader, optimizer: as SimpleTrainer's.
            parts: of each batch; they divide its size.
            box_normalizer: SPIL.BOX_NORMALIZER of the model.
            seed: of what is sampled; see `seed_torch`.
            precision: see `accumulate_gradients`.
        """
        super().__init__(model, data_loader, optimizer)
        self._parts = parts
        self._box_normalizer = box_normalizer
        self._seed = seed
        self._precision = precision

    def run_step(self) -> None:
        assert self.model.training, "the model was left in evaluation mode"
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        losses = accumulate_gradients(
            self.model,
            batch,
            self._parts,
            self._box_normalizer,
            precision=self._precision,
            before_part=lambda part: seed_torch(self._seed, self.iter, part, self._parts),
        )
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()


def seed_torch(seed: int, iteration: int, part: int = 0, parts: int = 1) -> None:
    """Seed torch for what is sampled in an iteration, anchors and RoIs.

    Part p of n of process r of w samples what process r + w p of w n would.

    Args:
        seed: of the run.
        iteration: of the run.
        part, parts: of the process's share of a batch, where it is cut into parts.
    """
    step = (iteration * parts + part) * comm.get_world_size() + comm.get_rank()
    torch.manual_seed(seed * 1_000_003 + step)


def accumulate_gradients(
    model: nn.Module,
    batch: Sequence[dict],
    parts: int,
    box_normalizer: str = "all",
    *,
    precision: torch.dtype = torch.float32,
    before_part: Callable[[int], None] = lambda part: None,
) -> dict[str, Tensor]:
    """Add the gradients of a batch's losses to the parameters, one part of it after the other.

    Part p of n has the items p, p + n, ..., those of process p of n. It counts by its share of
    what a loss is the mean over: the maps (an item has one, and another one with a foreign query),
    or the maps that have a box (one an item). So the RPN's losses are those of the whole batch; so
    are the RoI heads' wherever all maps have equally many sampled RoIs (classes, boxes) and
    positives (masks). Else a part's means are over its own RoIs, as they are with a process for
    each part.

    Args:
        model: training items -> losses.
        batch: training items of QueryRCNN.
        parts: divides the size of the batch.
        box_normalizer: SPIL.BOX_NORMALIZER of the model: what box losses are means over.
        precision: of what torch's autocast thinks safe in it; float32 for all.
        before_part: called with the number of each part before it goes through the model.

    Returns:
        The losses of the whole batch, detached.
    """
    assert len(batch) % parts == 0, f"{len(batch)} items in {parts} parts"
    num_maps = sum(1 + has_negative(item) for item in batch)
    over_boxed = {"loss_mask", *(_BOX_LOSSES if box_normalizer == "positive" else ())}
    total: dict[str, Tensor] = {}
    for index in range(parts):
        part = batch[index::parts]
        share = sum(1 + has_negative(item) for item in part) / num_maps
        before_part(index)
        with _gradients_kept_local(model, is_last=index == parts - 1):
            with _autocast(model, precision):
                found = model(part)
            losses = {
                name: (1 / parts if name in over_boxed else share) * loss
                for name, loss in found.items()
            }
            sum(losses.values()).backward()
        for name, loss in losses.items():
            total[name] = total.get(name, 0) + loss.detach()
    return total


def _autocast(model: nn.Module, precision: torch.dtype) -> contextlib.AbstractContextManager:
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, precision)


def _gradients_kept_local(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
    """Processes exchange their gradients once, with the last part's backward pass."""
    if isinstance(model, DistributedDataParallel) and not is_last:
        return model.no_sync()
    return contextlib.nullcontext()
