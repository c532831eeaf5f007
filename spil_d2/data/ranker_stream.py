"""The ranker's training batches: an endless stream in which batch b depends on (seed, b) alone.

Shape shorthand: P identities of K crops each in a batch, H x W pixels of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from .build import StreamSampler
from .region_crops import Region, RegionCrops, Size, read_region

Augment = Callable[[Tensor], Tensor]
"""A crop (3, H, W) uint8 -> another; random numbers come from torch's global generator."""

_HUE_PART = 0.25
_ERASED_AREA = (0.02, 0.2)
_ERASED_RATIO = (0.3, 3.33)
_BLUR_SIGMA = (0.1, 2.0)


@dataclass(frozen=True)
class Augmentation:
    """How training crops vary. Probabilities and parts of 0 switch a step off.

    Attributes:
        flip: probability of a horizontal flip.
        pad: black pixels on each side, of which a random window of H x W is kept.
        color_jitter: part by which brightness, contrast and saturation vary; hue by a quarter.
        grayscale, blur: probabilities.
        erasing: probability that a rectangle becomes `fill`.
        fill: value of each channel, of 0..255; the model's mean makes it 0 for the backbone.
    """

    flip: float = 0.5
    pad: int = 10
    color_jitter: float = 0.0
    grayscale: float = 0.0
    blur: float = 0.0
    erasing: float = 0.5
    fill: tuple[float, ...] = (0.0, 0.0, 0.0)

    def build(self, size: Size) -> Augment:
        """The steps for crops of a size (H, W)."""
        steps: list[torch.nn.Module] = [v2.Identity()]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.pad:
            steps.append(v2.RandomCrop(size, padding=self.pad))
        if self.color_jitter:
            part = self.color_jitter
            steps.append(v2.ColorJitter(part, part, part, min(_HUE_PART * part, 0.5)))
        if self.grayscale:
            steps.append(v2.RandomGrayscale(self.grayscale))
        if self.blur:
            # A tenth of the crop, and odd.
            kernel = max(size) // 20 * 2 + 1
            steps.append(v2.RandomApply([v2.GaussianBlur(kernel, _BLUR_SIGMA)], self.blur))
        if self.erasing:
            value = [float(round(one)) for one in self.fill]
            steps.append(v2.RandomErasing(self.erasing, _ERASED_AREA, _ERASED_RATIO, value))
        return v2.Compose(steps)


class IdentitySampler:
    """P x K batches of rows. No identity is twice in one batch, and noise in none.

    Identities come in an endless series of permutations, cut into batches; what is left at the end
    of one is dropped, another part each time. An identity with fewer than K crops repeats them as
    evenly as it can.
    """

    def __init__(self, labels: np.ndarray, num_identities: int, num_instances: int, seed: int):
        """
        Args:
            labels: (N,) int; those below 0 are noise.
            num_identities: P; where there are fewer, all are in each batch.
            num_instances: K.
            seed: of all draws.

        Raises:
            ValueError: for fewer than two identities, or P or K too small to compare.
        """
        labels = np.asarray(labels)
        self.members = [np.flatnonzero(labels == one) for one in np.unique(labels[labels >= 0])]
        if len(self.members) < 2 or num_identities < 2 or num_instances < 1:
            raise ValueError(
                f"{len(self.members)} identities among {len(labels)} regions, {num_identities} of "
                f"{num_instances} crops a batch: two identities are needed at least"
            )
        self.num_identities = min(num_identities, len(self.members))
        self._num_instances = num_instances
        self._seed = seed

    def batch(self, index: int) -> np.ndarray:
        """(P * K,) int64 rows of batch `index`, those of an identity side by side."""
        epoch, part = divmod(index, len(self.members) // self.num_identities)
        order = np.random.default_rng([self._seed, 0, epoch]).permutation(len(self.members))
        chosen = order[part * self.num_identities :][: self.num_identities]
        rng = np.random.default_rng([self._seed, 1, index])
        rows = [
            np.resize(rng.permutation(self.members[one]), self._num_instances) for one in chosen
        ]
        return np.concatenate(rows)


class CropStream(Dataset):
    """Batch b: {"crops" (P * K, 3, H, W) uint8, augmented, "labels" (P * K,) int64}."""

    def __init__(
        self,
        crops: Callable[[int], Tensor],
        labels: np.ndarray,
        sampler: IdentitySampler,
        augment: Augment,
        seed: int,
    ):
        """
        Args:
            crops: row -> (3, H, W) uint8, e.g. a tensor's `__getitem__` or a `RegionReader`.
            labels: (N,) int64.
            sampler: of rows.
            augment: one crop.
            seed: of the augmentation.
        """
        self._crops = crops
        self._labels = torch.from_numpy(np.asarray(labels, np.int64))
        self._sampler = sampler
        self._augment = augment
        self._seed = seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = self._sampler.batch(index)
        crops = [self._crops(int(row)) for row in rows]
        views = augment_crops(crops, self._augment, (self._seed, 2, index))
        return {"crops": views, "labels": self._labels[torch.from_numpy(rows)]}


class VectorStream(Dataset):
    """Batch b: {"vectors" (P * K, V), "labels" (P * K,) int64}, of views computed beforehand."""

    def __init__(self, views: Tensor, labels: np.ndarray, sampler: IdentitySampler, seed: int):
        """
        Args:
            views: (A, N, V): A views of each of N regions.
            labels: (N,) int64.
            sampler: of rows.
            seed: of the choice of views.
        """
        self._views = views
        self._labels = torch.from_numpy(np.asarray(labels, np.int64))
        self._sampler = sampler
        self._seed = seed

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rows = torch.from_numpy(self._sampler.batch(index))
        rng = np.random.default_rng([self._seed, 2, index])
        views = torch.from_numpy(rng.integers(len(self._views), size=len(rows)))
        return {"vectors": self._views[views, rows], "labels": self._labels[rows]}


class AugmentedViews(Dataset):
    """Item i: augmented views of all crops of the i-th picture, for a `VectorStream`.

    It is (rows (k,) int64, views (k, A, 3, H, W) uint8); a view depends on seed and row alone.
    """

    def __init__(self, pictures: RegionCrops, num_views: int, augment: Augment, seed: int):
        """
        Args:
            pictures: of the regions.
            num_views: A.
            augment: one crop.
            seed: of the augmentation.
        """
        self._pictures = pictures
        self.num_views = num_views
        self._augment = augment
        self._seed = seed

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        rows, crops = self._pictures[index]
        views = [
            augment_crops([crop] * self.num_views, self._augment, (self._seed, 3, row))
            for row, crop in zip(rows.tolist(), crops)
        ]
        return rows, torch.stack(views)


class RegionReader:
    """Row -> crop, read from its picture."""

    def __init__(self, regions: Sequence[Region], size: Size, image_format: str):
        self._regions = regions
        self._size = size
        self._format = image_format

    def __call__(self, row: int) -> Tensor:
        return read_region(self._regions[row], self._size, self._format)


def augment_crops(crops: Sequence[Tensor], augment: Augment, key: Sequence[int]) -> Tensor:
    """Augmented crops (N, 3, H, W) that depend on the key alone; no random state changes."""
    seed = int(np.random.default_rng(list(key)).integers(2**63))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.stack([augment(one) for one in crops])


def build_stream_loader(
    stream: CropStream | VectorStream, start_iteration: int, num_workers: int
) -> DataLoader:
    """Batches from an iteration on, as an undisturbed run would see them.

    Process r of w takes every w-th batch, from `start_iteration` x w + r on.
    """
    return DataLoader(
        stream,
        batch_size=None,
        sampler=StreamSampler(start_iteration * comm.get_world_size()),
        num_workers=num_workers,
        # Of its own: a new iterator would else draw from torch's global generator.
        generator=torch.Generator().manual_seed(start_iteration),
    )
