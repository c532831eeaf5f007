"""The stream of batches: P x K without repetition, a function of (seed, b) alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from spil_d2.data.ranker_stream import (
    Augmentation,
    AugmentedViews,
    CropStream,
    IdentitySampler,
    RegionReader,
    VectorStream,
    augment_crops,
    build_stream_loader,
)
from spil_d2.data.region_crops import Region, RegionCrops

SIZE = (16, 24)
LABELS = np.array([0, 0, 0, 1, 1, -1, 2, 2, 3, 3, 3, 3, 4, -1, -1])
STRONG = Augmentation(
    pad=3, color_jitter=0.4, grayscale=0.3, blur=0.3, erasing=0.5, fill=(1.0, 2.0, 3.0)
)


def test_batches_are_p_times_k_without_noise_or_a_twin() -> None:
    sampler = IdentitySampler(LABELS, num_identities=3, num_instances=2, seed=0)
    for index in range(50):
        labels = LABELS[sampler.batch(index)].reshape(3, 2)
        assert (labels[:, 0] == labels[:, 1]).all() and (labels >= 0).all()
        assert len(set(labels[:, 0])) == 3, "also where one permutation ends"


def test_identities_are_drawn_alike() -> None:
    """5 identities, 3 in a batch: each permutation drops two others."""
    sampler = IdentitySampler(LABELS, 3, 2, seed=0)
    counts = Counter(label for i in range(500) for label in LABELS[sampler.batch(i)][::2])
    assert set(counts) == {0, 1, 2, 3, 4}
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_crops_repeat_only_where_there_are_too_few() -> None:
    sampler = IdentitySampler(LABELS, 5, 4, seed=0)
    rows = sampler.batch(3).reshape(5, 4)
    repeats = {LABELS[one[0]]: sorted(Counter(one.tolist()).values()) for one in rows}
    assert repeats == {0: [1, 1, 2], 1: [2, 2], 2: [2, 2], 3: [1, 1, 1, 1], 4: [4]}


def test_all_identities_where_there_are_fewer_than_p() -> None:
    sampler = IdentitySampler(LABELS, 64, 2, seed=0)
    assert sorted(set(LABELS[sampler.batch(9)])) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="1 identities among 3 regions"):
        IdentitySampler(np.array([0, 0, -1]), 2, 2, seed=0)


@pytest.fixture
def crops() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (len(LABELS), 3, *SIZE)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def stream(crops: torch.Tensor, seed: int = 0) -> CropStream:
    sampler = IdentitySampler(LABELS, 3, 2, seed)
    return CropStream(crops.__getitem__, LABELS, sampler, STRONG.build(SIZE), seed)


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_batch_depends_on_seed_and_number_alone(crops) -> None:
    first = stream(crops)[7]
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    again = stream(crops)
    assert not same(again[6], first) and same(again[7], first)
    assert torch.equal(before, torch.random.get_rng_state()), "no random state changes"
    assert not same(stream(crops, seed=1)[7], first)
    assert first["crops"].shape == (6, 3, *SIZE) and first["crops"].dtype == torch.uint8
    assert first["labels"].dtype == torch.int64


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_where_it_is_told(crops, num_workers: int) -> None:
    loader = iter(build_stream_loader(stream(crops), 4, num_workers))
    expected = stream(crops)
    for index in (4, 5, 6):
        assert same(next(loader), expected[index])


def test_processes_share_the_stream(crops, monkeypatch) -> None:
    monkeypatch.setattr("spil_d2.data.build.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("spil_d2.data.build.comm.get_rank", lambda: 1)
    loader = iter(build_stream_loader(stream(crops), 3, 0))
    assert same(next(loader), stream(crops)[7]) and same(next(loader), stream(crops)[9])


def test_no_augmentation_leaves_crops_alone(crops) -> None:
    none = Augmentation(flip=0, pad=0, erasing=0).build(SIZE)
    assert torch.equal(augment_crops(list(crops), none, (0, 0)), crops)


def test_each_step(crops) -> None:
    off = {"flip": 0.0, "pad": 0, "erasing": 0.0}
    flipped = augment_crops(list(crops), Augmentation(**{**off, "flip": 1.0}).build(SIZE), (0,))
    assert torch.equal(flipped, crops.flip(3))
    grey = augment_crops(list(crops), Augmentation(**off, grayscale=1.0).build(SIZE), (0,))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    white = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)
    erase = Augmentation(**{**off, "erasing": 1.0}, fill=(1.4, 2.0, 3.0)).build((40, 40))
    for key in range(20):
        (one,) = augment_crops(list(white), erase, (key,))
        is_gone = (one != 255).all(dim=0)
        assert 0.01 < is_gone.float().mean() < 0.22
        assert one[:, is_gone].unique(dim=1).flatten().tolist() == [1, 2, 3]
    shift = Augmentation(**{**off, "pad": 5}).build((40, 40))
    moved = torch.stack([augment_crops(list(white), shift, (key,))[0] for key in range(20)])
    assert set(moved.unique().tolist()) == {0, 255}, "black comes in at the sides"


def test_vectors_are_of_the_labelled_rows() -> None:
    rows, views = len(LABELS), 4
    table = torch.arange(views * rows).reshape(views, rows, 1).float()
    batch = VectorStream(table, LABELS, IdentitySampler(LABELS, 3, 2, 0), 0)[5]
    numbers = batch["vectors"][:, 0].long()
    assert np.array_equal(LABELS[numbers % rows], batch["labels"])
    used = {
        int(number) // rows
        for index in range(10)
        for number in VectorStream(table, LABELS, IdentitySampler(LABELS, 3, 2, 0), 0)[index][
            "vectors"
        ]
    }
    assert used == set(range(views))


def test_views_depend_on_the_row_alone(tmp_path) -> None:
    rng = np.random.default_rng(0)
    names = [str(tmp_path / f"{i}.png") for i in range(2)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)).save(name)
    regions = [Region(names[row % 2], (row, 2, 20 + row, 28)) for row in range(5)]
    augment = STRONG.build(SIZE)
    views = AugmentedViews(RegionCrops(regions, SIZE, "RGB"), 3, augment, seed=4)
    read = RegionReader(regions, SIZE, "RGB")
    for index in (1, 0):
        rows, found = views[index]
        for row, one in zip(rows.tolist(), found):
            assert torch.equal(one, augment_crops([read(row)] * 3, augment, (4, 3, row)))
            assert not torch.equal(one[0], one[1])
