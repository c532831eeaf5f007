"""The training loader: an endless stream of pairs in which item i depends on i alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from detectron2.data import build_batch_data_loader
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from ..structures import Pair


class PairDataset(Dataset):
    """Item i of the stream: query i of an endless series of permutations, drawn and mapped."""

    def __init__(
        self,
        query_ids: Sequence[int],
        draw: Callable[[int, np.random.Generator], Pair],
        mapper: Callable[[Pair, np.random.Generator], dict],
        seed: int,
    ):
        """
        Args:
            query_ids: at least one.
            draw: (query id, generator) -> Pair, e.g. `PairSampler.draw`.
            mapper: (pair, generator) -> training item, e.g. a `PairMapper`.
            seed: of all draws; runs with equal seeds see equal items.
        """
        self._query_ids = tuple(query_ids)
        self._draw = draw
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._query_ids)

    def __getitem__(self, index: int) -> dict:
        return self._mapper(*self._drawn(index))

    def pair(self, index: int) -> Pair:
        """What item `index` shows; no picture is read."""
        return self._drawn(index)[0]

    def _drawn(self, index: int) -> tuple[Pair, np.random.Generator]:
        epoch, row = divmod(index, len(self._query_ids))
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self._query_ids))
        rng = np.random.default_rng([self._seed, 1, index])
        return self._draw(self._query_ids[order[row]], rng), rng


class StreamSampler(Sampler):
    """Indices start, start + 1, ... of the stream; process r of w takes every w-th."""

    def __init__(self, start: int):
        self._start = start

    def __iter__(self) -> Iterator[int]:
        index = self._start + comm.get_rank()
        while True:
            yield index
            index += comm.get_world_size()


def build_pair_loader(
    dataset: PairDataset, start_iteration: int, batch_size: int, num_workers: int
) -> torch.utils.data.DataLoader:
    """Batches of the stream from an iteration on, as an undisturbed run would see them.

    Args:
        dataset: the stream.
        start_iteration: of the whole run; each takes `batch_size` items.
        batch_size: of all processes together.
        num_workers: of each process.
    """
    return build_batch_data_loader(
        dataset,
        StreamSampler(start_iteration * batch_size),
        batch_size,
        aspect_ratio_grouping=False,
        num_workers=num_workers,
        collate_fn=list,
        # With a generator of its own: a new iterator would else draw from torch's global one, and
        # a resumed run makes its iterator at another iteration than the undisturbed run.
        seed=start_iteration,
    )
