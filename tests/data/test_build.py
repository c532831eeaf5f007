"""The endless stream of pairs: what item i is does not depend on when or where it is made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from spil_d2.data.build import PairDataset, StreamSampler, build_pair_loader
from spil_d2.structures import Pair


def _draw(query_id: int, rng: np.random.Generator) -> Pair:
    return Pair(query_id, int(rng.integers(100)), ())


def _map(pair: Pair, rng: np.random.Generator) -> dict:
    return {"query": pair.query_id, "target": pair.target, "noise": float(rng.random())}


def _dataset(seed: int = 0) -> PairDataset:
    return PairDataset((3, 5, 8, 13, 21), _draw, _map, seed)


def _batches(start: int, count: int, num_workers: int = 0) -> list[list[dict]]:
    loader = build_pair_loader(_dataset(), start, batch_size=2, num_workers=num_workers)
    return list(itertools.islice(loader, count))


def test_each_epoch_shows_every_query_once_in_another_order() -> None:
    dataset = _dataset()
    epochs = [[dataset[5 * e + i]["query"] for i in range(5)] for e in range(4)]
    assert all(sorted(epoch) == [3, 5, 8, 13, 21] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_items_depend_on_index_and_seed_alone() -> None:
    dataset = _dataset()
    forwards = [dataset[i] for i in range(12)]
    assert [dataset[i] for i in reversed(range(12))] == forwards[::-1]
    assert [_dataset(seed=1)[i] for i in range(12)] != forwards


def test_a_later_start_goes_on_where_the_stream_would_be() -> None:
    assert _batches(3, 4) == _batches(0, 7)[3:]


def test_workers_change_nothing() -> None:
    assert _batches(1, 3, num_workers=1) == _batches(1, 3)


def test_making_an_iterator_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    _batches(0, 1)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("start", [0, 7])
def test_one_process_takes_every_index(start: int) -> None:
    indices = list(itertools.islice(StreamSampler(start), 5))
    assert indices == list(range(start, start + 5))
