"""Searching an index of pictures: the API behind the command line and the web page."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..data.pictures import read_picture
from ..ops.similarity import unit_rows
from ..retrieval import SearchEngine, build_search_engine
from ..retrieval.engines import LocalizingEngine
from ..retrieval.index import RegionIndex
from ..retrieval.search import SearchSettings
from ..structures import Box, RankList, SearchHit
from .calibration import Calibrator
from .file_table import GONE, INDEXED, LEAVING, FileRow
from .gallery_features import FeatureCacheSettings
from .index_directory import CALIBRATION, LOCALIZER, FolderIndex
from .refinement import Refiner
from .segments import WORKING_SIDE

logger = logging.getLogger(__name__)

Combine = Literal["mean", "max"]
COMBINES = ("mean", "max")
QUERY_SIDE = 2048
"""Query pictures from files are reduced to no less than this longer side."""
FEATURES = "features"
"""Folder of an index where `Searcher.refine` may keep maps of pictures."""


@dataclass(frozen=True)
class QueryImage:
    """One picture that shows the instance.

    Attributes:
        image: (H, W, 3) uint8 RGB, as displayed.
        boxes: at least one, (x0, y0, x1, y1) in pixels of `image`, around the instance.
        image_id: of the index, where the picture is in it: it is left out of the results.
    """

    image: np.ndarray
    boxes: tuple[Box, ...]
    image_id: int | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(
                f"a query picture is (H, W, 3) uint8 RGB, got {self.image.shape} {self.image.dtype}"
            )
        if not self.boxes:
            raise ValueError("a query picture needs a box around the instance")
        for box in self.boxes:
            check_box(box, self.image.shape[1], self.image.shape[0])


def check_box(box: Sequence[float], width: int, height: int) -> None:
    """Refuse a box that is not (x0, y0, x1, y1) with an area inside a picture.

    Raises:
        ValueError: naming the box, the picture's size, and what is wrong.
    """
    shown = ",".join(f"{value:g}" for value in box)
    size = f"the picture has {width}x{height} pixels (width x height, as displayed)"
    if len(box) != 4 or not np.isfinite(box).all():
        raise ValueError(f"box {shown}: it must be four numbers x0,y0,x1,y1; {size}")
    x0, y0, x1, y1 = box
    if x0 >= x1 or y0 >= y1:
        raise ValueError(
            f"box {shown} is empty or its corners are out of order: x0 < x1 and y0 < y1 are "
            f"needed; {size}"
        )
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ValueError(
            f"box {shown} reaches outside: 0 <= x <= {width} and 0 <= y <= {height}; {size}"
        )


def read_query(
    path: str | Path, boxes: Sequence[Box] = (), image_id: int | None = None
) -> QueryImage:
    """A query from a file.

    Args:
        path: of any readable picture.
        boxes: in pixels of the picture as displayed; none means the whole picture.
        image_id: see `QueryImage`.

    Raises:
        UnreadablePictureError: for the file.
        ValueError: for a box, naming the file and the picture's size.
    """
    picture = read_picture(path, QUERY_SIDE)
    wanted = list(boxes) or [(0.0, 0.0, float(picture.width), float(picture.height))]
    for box in wanted:
        try:
            check_box(box, picture.width, picture.height)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    height, width = picture.pixels.shape[:2]
    scaled = picture.from_displayed(np.array(wanted)).clip(0, (width, height, width, height))
    return QueryImage(
        picture.pixels, tuple((a, b, c, d) for a, b, c, d in scaled.tolist()), image_id
    )


class Searcher:
    """An index that is searched. Threads may share it: a query leaves no trace in it.

    It shows the index as it was when it was opened.
    """

    def __init__(
        self,
        index: FolderIndex,
        engine: SearchEngine,
        regions: RegionIndex,
        calibrator: Calibrator,
        refiner: Refiner | None = None,
    ):
        """See `open`."""
        self._index = index
        self._engine = engine
        self._regions = regions
        self._calibrator = calibrator
        self._refiner = refiner
        self._settings = SearchSettings.from_config(index.config)

    @classmethod
    def open(cls, index_dir: str | Path, cache_gb: float = 0.0) -> Searcher:
        """Open an index that `spil-d2 index` has made.

        Args:
            index_dir: of the index.
            cache_gb: `refine` keeps what does not depend on the query in INDEX/features, at most so
                many 10^9 bytes: the same pictures are faster then, for any query. 0 keeps nothing,
                and nothing is written into the index.

        Raises:
            FileNotFoundError: there is none, or it is not complete.
            ValueError: a file of it is damaged.
        """
        index = FolderIndex(index_dir)
        try:
            regions = index.open_regions()
            calibrator = Calibrator.load(index.directory / CALIBRATION)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{index.directory} holds no searchable picture yet: run `spil-d2 index "
                f"{index.folder} --out {index.directory}` to its end"
            ) from error
        if not index.manifest["is_complete"]:
            logger.warning("%s is being made, or its making was interrupted", index.directory)
        engine = build_search_engine(index.config)
        features = FeatureCacheSettings()
        if cache_gb:
            features = FeatureCacheSettings(str(index.directory / FEATURES), cache_gb)
        refiner = Refiner.open(index.directory / LOCALIZER, features)
        return cls(index, engine, regions, calibrator, refiner)

    def info(self) -> dict:
        """What the index is and holds, JSON-like."""
        manifest = self._index.manifest
        return {
            "folder": str(self._index.folder),
            "engine": manifest["engine"],
            "backend": manifest["backend"],
            "images": len(self._regions),
            "regions": self._regions.num_regions,
            "dimension": self._regions.dimension,
            "unreadable": manifest.get("unreadable", []),
            "adapted": self.can_refine,
            "calibrated": self._calibrator.is_fitted,
            "complete": manifest["is_complete"],
        }

    @property
    def can_refine(self) -> bool:
        """Whether `adapt` has made a localizer for `refine`."""
        return self._refiner is not None

    def search(
        self,
        references: Sequence[QueryImage],
        k: int = 50,
        *,
        combine: Combine = "mean",
        excluded: Collection[int] = (),
    ) -> list[SearchHit]:
        """Rank the pictures of the index.

        Where the index's configuration says so (SEARCH.QE, SEARCH.KRECIPROCAL), the query is
        expanded, and a search with one embedding is re-ranked; similarity and score are then still
        those of the cosine.

        Args:
            references: pictures of one instance.
            k: how many hits at most.
            combine: "mean" searches with the mean of all boxes' embeddings; "max" takes for each
                picture its best box: for references that look different.
            excluded: image ids that are not wanted, besides the references' own.

        Returns:
            Hits with rank, box, calibrated score and similarity, best first.

        Raises:
            ValueError: no reference, k < 1, or another way to combine.
        """
        if not references or k < 1 or combine not in COMBINES:
            raise ValueError(
                f"search with {len(references)} pictures for the best {k}, combined by "
                f"{combine!r}: at least one picture, k >= 1 and one of {COMBINES} are needed"
            )
        queries = self.embed(references)
        if combine == "mean":
            queries = unit_rows(queries.mean(axis=0, keepdims=True))
        left_out = {int(one) for one in excluded}
        left_out |= {one.image_id for one in references if one.image_id is not None}
        ranked, queries = self._rank(queries, k, left_out)
        if isinstance(self._engine, LocalizingEngine):
            ranked = replace(ranked, boxes=self._localized(self._engine, references[0], ranked))
        background = self._calibrator.background(self._regions, queries).max(axis=0)
        return self._hits(ranked, background)

    def refine(
        self, references: Sequence[QueryImage], hits: Sequence[SearchHit]
    ) -> Iterator[SearchHit]:
        """The hits with the adapted localizer's boxes, probabilities and masks, one by one.

        Ranks and similarities stay as they are; `score` becomes the localizer's probability. Hits
        whose picture has changed or gone since it was indexed are left out and logged.

        Args:
            references: those of the search.
            hits: of the search, all that are to be refined.

        Raises:
            RuntimeError: the index has no adapted localizer.
        """
        if self._refiner is None:
            raise RuntimeError(
                f"{self._index.directory} has no adapted localizer: run `spil-d2 adapt "
                f"{self._index.directory} --query IMG --box x0,y0,x1,y1`"
            )
        shown = [(one.image, one.boxes) for one in references]
        return self._refiner.refine(shown, hits, self.image_path)

    def embed(self, references: Sequence[QueryImage]) -> np.ndarray:
        """(N, D) float32, L2-normalized: one embedding a box, those of a picture together."""
        return np.concatenate(
            [self._engine.embed(one.image, np.array(one.boxes, np.float32)) for one in references]
        )

    def query_image(self, path: str | Path, boxes: Sequence[Box] = ()) -> QueryImage:
        """`read_query`, which also notices a picture that is in the index."""
        try:
            relative = Path(path).resolve().relative_to(self._index.folder)
        except ValueError:
            return read_query(path, boxes)
        row = self._index.files.by_path(relative.as_posix())
        known = row.id if row is not None and row.status == INDEXED else None
        return read_query(path, boxes, known)

    def images(self) -> list[tuple[int, str]]:
        """Image id and relative path of all pictures of the index."""
        return [(one.id, one.path) for one in self._index.files.rows(INDEXED)]

    def image_path(self, image_id: int) -> Path:
        """Where a picture of the index lies; KeyError for any other number."""
        return self._index.folder / self._row(image_id).path

    def image_size(self, image_id: int) -> tuple[int, int]:
        """Displayed width and height of a picture of the index, as it was indexed."""
        row = self._row(image_id)
        return row.width, row.height

    def read_image(self, image_id: int, enough_side: int | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB as displayed; reduced where `enough_side` allows (`read_picture`).

        Raises:
            KeyError: for a number that is not of the index.
            UnreadablePictureError: the file has changed or gone since it was indexed.
        """
        return read_picture(self.image_path(image_id), enough_side).pixels

    def regions_of(self, image_id: int) -> np.ndarray:
        """(R, 4) float32 boxes of a picture's regions, in pixels of the displayed picture."""
        return self._regions.regions_of(image_id).boxes

    def close(self) -> None:
        """Let go of the index's files."""
        self._regions.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rank(
        self, queries: np.ndarray, k: int, left_out: Collection[int]
    ) -> tuple[RankedHits, np.ndarray]:
        """The best k pictures for any of (Q, D) queries, and the queries after their expansion."""
        settings, regions = self._settings, self._regions
        ids, skipped = range(len(queries)), [left_out] * len(queries)
        if settings.expansion is not None:
            lists = regions.search(ids, queries, settings.expansion.num_regions, skipped)
            queries = settings.expansion.apply(queries, lists, regions)
        reciprocal = settings.reciprocal if len(queries) == 1 else None
        depth = max(k, reciprocal.shortlist) if reciprocal is not None else k
        lists = regions.search(ids, queries, depth, skipped)
        best = _best_of(lists.lists, depth)
        if reciprocal is not None:
            (order,) = reciprocal.apply(queries, lists, regions).lists
            places = {image_id: i for i, image_id in enumerate(best.image_ids.tolist())}
            best = best.take([places[image_id] for image_id in order.image_ids.tolist()])
        return best.take(range(min(k, len(best.image_ids)))), queries

    def _localized(
        self, engine: LocalizingEngine, reference: QueryImage, ranked: RankedHits
    ) -> np.ndarray:
        """(M, 4) boxes of an engine that looks for them in each ranked picture."""
        cues = engine.cues(reference.image, np.array(reference.boxes[:1], np.float32))
        boxes = []
        for image_id in ranked.image_ids.tolist():
            picture = read_picture(self.image_path(image_id), WORKING_SIDE)
            boxes.append(picture.to_displayed(engine.localize(picture.pixels, cues))[0])
        return np.array(boxes, np.float32).reshape(-1, 4)

    def _row(self, image_id: int) -> FileRow:
        row = self._index.files.by_id(image_id)
        if row.status not in (INDEXED, LEAVING, GONE) or not row.width:
            raise KeyError(f"the index has no image {image_id}")
        return row

    def _hits(self, ranked: RankedHits, background: np.ndarray) -> list[SearchHit]:
        scores = self._calibrator.probabilities(
            ranked.similarities, background, len(self._regions)
        ).tolist()
        rows = self._index.files.by_ids(ranked.image_ids.tolist())
        parts = zip(rows, ranked.boxes.tolist(), scores, ranked.similarities.tolist())
        return [
            SearchHit(rank, row.path, row.id, (box[0], box[1], box[2], box[3]), score, similarity)
            for rank, (row, box, score, similarity) in enumerate(parts, 1)
        ]


@dataclass(frozen=True)
class RankedHits:
    """M pictures, best first; re-ranking may have moved them from the order of similarity.

    Attributes:
        image_ids: (M,) int64.
        boxes: (M, 4) float32, XYXY_ABS.
        similarities: (M,) float32.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    similarities: np.ndarray

    def take(self, places: Sequence[int]) -> RankedHits:
        """The hits at `places`, in their order."""
        rows = np.array(places, np.int64)
        return RankedHits(self.image_ids[rows], self.boxes[rows], self.similarities[rows])


def _best_of(lists: Sequence[RankList], k: int) -> RankedHits:
    """Each image's best entry; exact for the first k, if the lists have k."""
    ids = np.concatenate([one.image_ids for one in lists])
    boxes = np.concatenate([one.boxes for one in lists])
    similarities = np.concatenate([one.similarities for one in lists])
    order = np.lexsort((ids, -similarities))
    _, first = np.unique(ids[order], return_index=True)
    return RankedHits(ids, boxes, similarities).take(order[np.sort(first)][:k])
