"""Query seeds: boxes on unlabeled images that the cycle searches for (CST, spec 5.1)."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ops.numpy_boxes import BoxFilter, clip_boxes
from ..structures import Query, Reference

logger = logging.getLogger(__name__)

Proposals = tuple[np.ndarray, np.ndarray]
"""Boxes (N, 4) XYXY_ABS in pixels of an image and scores (N,), best first."""

_COLUMNS = {"image_ids": np.int64, "boxes": np.float32, "scores": np.float32, "sources": np.int64}
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class QuerySeeds:
    """The seeds of a cycle, the same in all of its rounds. Shape shorthand: N seeds.

    The id of a seed is its position; they are in the order source, image id, place of the proposal.

    Attributes:
        image_ids: (N,) int64, the unlabeled images they were taken from.
        boxes: (N, 4) float32, XYXY_ABS in pixels of those images.
        scores: (N,) float32 of the proposals, comparable inside one source.
        sources: (N,) int64 positions in `source_names`.
        source_names: names of the sources of proposals.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    sources: np.ndarray
    source_names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.image_ids)
        for name in _COLUMNS:
            shape = (n, 4) if name == "boxes" else (n,)
            if np.shape(getattr(self, name)) != shape:
                seen = np.shape(getattr(self, name))
                raise ValueError(f"query seeds: {name} is {seen}, not {shape}")

    def __len__(self) -> int:
        return len(self.image_ids)

    def queries(self, gallery: Mapping[int, dict]) -> tuple[Query, ...]:
        """The seeds as queries without identity.

        Args:
            gallery: image id -> Detectron2 dataset dict, of at least the seeds' images.

        Raises:
            KeyError: a seed's image is not in the gallery.
            ValueError: a box does not lie inside its image.
        """
        queries = []
        for seed_id, (image_id, box) in enumerate(zip(self.image_ids.tolist(), self.boxes)):
            if image_id not in gallery:
                raise KeyError(f"the image {image_id} of seed {seed_id} is not in the gallery")
            one = gallery[image_id]
            x0, y0, x1, y1 = map(float, box)
            reference = Reference(
                one["file_name"], one["width"], one["height"], (x0, y0, x1, y1), image_id
            )
            queries.append(Query(seed_id, (reference,)))
        return tuple(queries)

    def save(self, path: str | Path) -> None:
        """Write one .npz (no pickle)."""
        names = np.frombuffer(json.dumps(self.source_names).encode(), np.uint8)
        columns = {name: getattr(self, name).astype(kind) for name, kind in _COLUMNS.items()}
        with open(path, "wb") as file:
            np.savez_compressed(file, source_names=names, **columns)

    @classmethod
    def load(cls, path: str | Path) -> QuerySeeds:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: naming the file, where it is damaged or of another kind.
        """
        try:
            # numpy leaves a file open that it opened itself and cannot read.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
                names = tuple(json.loads(archive["source_names"].tobytes()))
                return cls(**{name: archive[name] for name in _COLUMNS}, source_names=names)
        except FileNotFoundError:
            raise
        except _DAMAGED as error:
            raise ValueError(f"{path} is not a readable file of query seeds: {error}") from error


def sample_seeds(
    proposals: Mapping[str, Mapping[int, Proposals]],
    gallery: Mapping[int, dict],
    *,
    num_seeds: int,
    top_k: int,
    box_filter: BoxFilter,
    seed: int,
) -> QuerySeeds:
    """An equal number of seeds from each source, uniformly without replacement.

    What is drawn from a source depends on its own proposals, its name, its share and `seed`, not on
    the other sources or on the order of images. A source with too few proposals gives all it has;
    the others do not make up for it, which would shift the ratio unseen.

    Args:
        proposals: source -> image id -> its proposals.
        gallery: image id -> Detectron2 dataset dict, of at least those images.
        num_seeds: of all sources together; what does not divide goes to the first sources.
        top_k: best proposals of an image that pass the filter, which seeds are drawn from.
        box_filter: which proposals may be seeds.
        seed: of the draw.

    Raises:
        ValueError: there is no source, or no proposal passes.
    """
    if not proposals or num_seeds < 1 or top_k < 1:
        raise ValueError(
            "seeds need a source of proposals, num_seeds >= 1 and top_k >= 1, got "
            f"{sorted(proposals)}, {num_seeds} and {top_k}"
        )
    parts = []
    for place, (name, of_images) in enumerate(proposals.items()):
        share = num_seeds // len(proposals) + (place < num_seeds % len(proposals))
        pool = _candidates(of_images, gallery, top_k, box_filter)
        image_ids, boxes, scores = pool
        if len(image_ids) < share:
            logger.warning(
                "source %s has %d proposals for its share of %d seeds: all are taken, and the "
                "other sources keep their shares",
                name,
                len(image_ids),
                share,
            )
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        drawn = rng.choice(len(image_ids), min(share, len(image_ids)), replace=False)
        drawn.sort()
        parts.append((image_ids[drawn], boxes[drawn], scores[drawn], np.full(len(drawn), place)))
        logger.info("%d seeds of %d proposals from source %s", len(drawn), len(image_ids), name)
    image_ids, boxes, scores, sources = (np.concatenate(column) for column in zip(*parts))
    if len(image_ids) == 0:
        raise ValueError(
            f"no proposal of the sources {sorted(proposals)} passes {box_filter}: no seeds"
        )
    return QuerySeeds(image_ids, boxes, scores, sources, tuple(proposals))


def seed_candidates(
    proposals: Proposals, record: Mapping, top_k: int, box_filter: BoxFilter
) -> Proposals:
    """Which proposals of an image seeds are drawn from; of these, it is all.

    Args:
        proposals: of the image.
        record: its Detectron2 dataset dict.
        top_k, box_filter: as for `sample_seeds`.

    Returns:
        Boxes (K, 4) inside the image and scores (K,), float32, best first.
    """
    boxes, scores = proposals
    width, height = record["width"], record["height"]
    boxes = clip_boxes(boxes, width, height)
    scores = np.asarray(scores, np.float32)
    kept = np.flatnonzero(box_filter.keeps(boxes, width, height))
    # Scores may be equal, and then the source's own order counts.
    kept = kept[np.argsort(-scores[kept], kind="stable")][:top_k]
    return boxes[kept], scores[kept]


def _candidates(
    of_images: Mapping[int, Proposals],
    gallery: Mapping[int, dict],
    top_k: int,
    box_filter: BoxFilter,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image ids, boxes and scores of all proposals of a source that may be seeds."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
        (np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    ]
    for image_id in sorted(of_images):
        kept = seed_candidates(of_images[image_id], gallery[image_id], top_k, box_filter)
        parts.append((np.full(len(kept[0]), image_id, np.int64), *kept))
    image_ids, boxes, scores = (np.concatenate(column) for column in zip(*parts))
    return image_ids, boxes, scores


def count_by_source(seeds: QuerySeeds) -> dict[str, int]:
    """Seeds of each source, for logs and manifests."""
    counts: Sequence[int] = np.bincount(seeds.sources, minlength=len(seeds.source_names)).tolist()
    return dict(zip(seeds.source_names, counts))
