"""From similarities to probabilities, learned without labels on the index's own pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from tqdm import tqdm

from ..data.pictures import Picture, UnreadablePictureError
from ..retrieval import SearchEngine
from ..retrieval.index import RegionIndex
from ..utils.artifacts import replaced_file
from ..utils.reading import UnreadableFileError, open_arrays

logger = logging.getLogger(__name__)

BACKGROUND_IMAGES = 128
NUM_PAIRS = 48
MIN_IMAGES = 8
"""Below so many pictures nothing is fitted, and `DEFAULT_WEIGHTS` stand."""

EXPECTED_IMAGES = 10
MAX_PRIOR = 0.2
DEFAULT_WEIGHTS = (0.0, 1.4, -2.2)
"""Of similarity, its z-score, and 1; what the fit gives on `ins_instre_dev` with DASR."""

_MIN_DEVIATION = 0.02
# Part of the negatives of a pair, the most similar, that may show the same instance in truth.
_TRIMMED = 0.01
# Sizes of regions, as parts of the picture, that stand for objects; and of where they are pasted.
_OBJECT_AREA = (0.03, 0.6)
_PASTED_AREA = (0.05, 0.5)
# Sides of a window that stands for an object where no region does, as parts of the picture's.
_WINDOW_SIDES = (0.3, 0.7)
_RIDGE = 1e-5

ReadPicture = Callable[[int], Picture]


@dataclass(frozen=True)
class Calibrator:
    """Probability that the instance is in a picture, given its similarity to the query.

    What it means: of the pictures that get a score of 0.8, over many queries, about 80 % should
    show the instance, if the index is expected to hold some ten pictures of it. The evidence is
    the similarity itself and how far it lies above the query's own background, in robust standard
    deviations of its similarities to a sample of the index's pictures (most of which do not show
    the instance). How much that is worth is fitted at index time by a logistic regression on
    pairs that need no label: positives are regions of the index's pictures that are warped,
    recoloured and pasted into other pictures of the index; negatives are other pictures.

    Limits: a pasted view keeps its side of the object, so scores of an object seen from behind
    are too low; twins of the same model count as the instance; where many more or fewer than
    `EXPECTED_IMAGES` pictures show it, all scores are too low or too high together, but their
    order and the rejection curve stay. Below `MIN_IMAGES` pictures nothing is fitted.

    Attributes:
        weights: of the similarity, the z-score, and 1, for even odds; the first two are not
            negative.
        is_fitted: False where `weights` are the default.
        num_images: of the index when it was fitted.
        embeddings: (R, D) float16, the background's regions.
        offsets: (B + 1,) int64; background picture b has the rows offsets[b] to offsets[b + 1].
    """

    weights: tuple[float, float, float]
    is_fitted: bool
    num_images: int
    embeddings: np.ndarray
    offsets: np.ndarray

    def background(self, regions: RegionIndex, queries: np.ndarray) -> np.ndarray:
        """(Q, B) float32 similarities of queries (Q, D) to the background's pictures."""
        similarities = regions.compare(queries, self.embeddings.astype(np.float32))
        return np.maximum.reduceat(similarities, self.offsets[:-1], axis=1)

    def probabilities(
        self, similarities: np.ndarray, background: np.ndarray, num_images: int
    ) -> np.ndarray:
        """Calibrated scores.

        Args:
            similarities: (K,) of one query.
            background: (B,) of the same query to the background's pictures.
            num_images: of the index, for how many of them are expected to show an instance.

        Returns:
            (K,) float64 in [0, 1], growing with the similarity.
        """
        evidence = _features(similarities, background) @ np.array(self.weights[:2])
        return expit(evidence + self.weights[2] + logit(expected_prior(num_images)))

    def save(self, path: Path) -> None:
        """Write one .npz (no pickle), whole or not at all."""
        with replaced_file(path, "wb") as file:
            np.savez(
                file,
                weights=np.array(self.weights),
                is_fitted=self.is_fitted,
                num_images=self.num_images,
                embeddings=self.embeddings,
                offsets=self.offsets,
            )

    @classmethod
    def load(cls, path: Path) -> Calibrator:
        """Read what `save` wrote; ValueError naming the file where it is something else."""
        try:
            with open_arrays(path, "calibration") as arrays:
                a, b, c = arrays.read("weights", "f", 3).tolist()
                embeddings = arrays.read("embeddings", "f", None, None)
                offsets = arrays.read("offsets", "i", None)
                if not (
                    len(offsets) > 1
                    and (offsets[0], offsets[-1]) == (0, len(embeddings))
                    and (np.diff(offsets) > 0).all()
                ):
                    raise arrays.error("offsets do not fit the embeddings")
                is_fitted = bool(arrays.read("is_fitted", "b"))
                num_images = int(arrays.read("num_images", "i"))
                return cls((a, b, c), is_fitted, num_images, embeddings, offsets)
        except UnreadableFileError as error:
            raise UnreadableFileError(
                path, f"is no calibration ({error.reason}): run `spil-d2 index` again"
            ) from error


def fit_calibrator(
    engine: SearchEngine,
    regions: RegionIndex,
    read: ReadPicture,
    seed: int = 0,
    progress: bool = True,
) -> Calibrator:
    """Fit a calibrator on an index.

    Args:
        engine: of the index.
        regions: the index, with at least one image.
        read: image id -> picture; one that it cannot read is passed over.
        seed: of all choices.
        progress: show a bar.
    """
    logger.info("seed %d of the pairs that scores are calibrated on", seed)
    rng = np.random.default_rng(seed)
    ids = np.sort(regions.image_ids)
    sample = rng.permutation(ids)[:BACKGROUND_IMAGES]
    parts = [regions.regions_of(int(image_id)).embeddings for image_id in sample]
    background = Calibrator(
        DEFAULT_WEIGHTS,
        False,
        len(ids),
        np.concatenate(parts).astype(np.float16),
        np.cumsum([0, *(len(one) for one in parts)]).astype(np.int64),
    )
    if len(ids) < MIN_IMAGES:
        logger.info("%d pictures are too few to calibrate scores on: default weights", len(ids))
        return background
    positives, negatives = [], []
    sources = rng.permutation(ids)[:NUM_PAIRS]
    for source in tqdm(sources, desc="calibrating", unit="image", disable=not progress):
        host = int(rng.choice(ids[ids != source]))
        try:
            query, similarity = _pasted_pair(engine, regions, read, int(source), host, rng)
        except UnreadablePictureError as error:
            logger.warning("left out of the calibration: %s", error)
            continue
        own = background.background(regions, query[None])[0]
        others = np.sort(own[sample != source])
        positives.append(_features(np.array([similarity]), own))
        negatives.append(_features(others[: max(1, int(len(others) * (1 - _TRIMMED)))], own))
    if not positives:
        return background
    # Fitted at the odds of a real search, so that it is right where few negatives come near.
    prior = expected_prior(len(ids))
    a, b, c = fit_logistic(np.concatenate(positives), np.concatenate(negatives), prior)
    weights = (a, b, c - float(logit(prior)))
    logger.info("scores: weights %s from %d pairs", np.round(weights, 3), len(positives))
    return Calibrator(weights, True, len(ids), background.embeddings, background.offsets)


def expected_prior(num_images: int) -> float:
    """Part of an index's pictures that are expected to show an instance."""
    return min(MAX_PRIOR, EXPECTED_IMAGES / max(num_images, 1))


def fit_logistic(
    positives: np.ndarray, negatives: np.ndarray, prior: float = 0.5
) -> tuple[float, float, float]:
    """Logistic regression on two features, without negative slopes.

    Args:
        positives, negatives: (N, 2) features of each class.
        prior: weight of all positives together; the negatives have the rest.

    Returns:
        The weights of the features and of 1.
    """
    x = np.concatenate([positives, negatives])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    signs = np.repeat([1.0, -1.0], [len(positives), len(negatives)])
    counts = [len(positives), len(negatives)]
    shares = np.repeat([prior / counts[0], (1 - prior) / counts[1]], counts)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (x @ weights)
        slopes = weights * (1, 1, 0)
        value = shares @ np.logaddexp(0, -margins) + _RIDGE * slopes @ slopes
        return value, -x.T @ (shares * signs * expit(-margins)) + 2 * _RIDGE * slopes

    bounds = [(0, None), (0, None), (None, None)]
    a, b, c = minimize(loss, np.zeros(3), jac=True, bounds=bounds, method="L-BFGS-B").x
    return float(a), float(b), float(c)


def _features(similarities: np.ndarray, background: np.ndarray) -> np.ndarray:
    """(K, 2): the similarity, and its z-score over the query's background."""
    centre = np.median(background)
    deviation = 1.4826 * np.median(np.abs(background - centre))
    scores = (similarities - centre) / max(float(deviation), _MIN_DEVIATION)
    return np.stack([similarities, scores], axis=-1).astype(np.float64)


def _pasted_pair(
    engine: SearchEngine,
    regions: RegionIndex,
    read: ReadPicture,
    source: int,
    host: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """A query embedding (D,) and its similarity to a picture that it was pasted into."""
    picture = read(source)
    boxes = picture.from_displayed(regions.regions_of(source).boxes)
    box = object_box(boxes, picture.pixels.shape[:2], rng)
    query = engine.embed(picture.pixels, box[None])[0]
    pasted = paste_view(picture.pixels, box, read(host).pixels, rng)
    found = engine.regions([pasted])[0]
    return query, float(regions.compare(query[None], found.embeddings).max())


def object_box(boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A box that may stand for an object.

    Args:
        boxes: (R, 4) regions of a picture, XYXY_ABS.
        size: height and width of the picture.
        rng: chooses.

    Returns:
        (4,) float32, at least a pixel wide and high: one of the regions that is neither tiny nor
        nearly the whole picture or, where there is none, any window.
    """
    height, width = size
    parts = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (height * width)
    fitting = boxes[(parts > _OBJECT_AREA[0]) & (parts < _OBJECT_AREA[1])]
    limit = np.array([width, height], np.float32)
    if len(fitting):
        low, high = np.split(rng.choice(fitting), 2)
    else:
        sides = limit * rng.uniform(*_WINDOW_SIDES, 2)
        low = rng.uniform(0, limit - sides)
        high = low + sides
    low = np.clip(low, 0, np.maximum(limit - 1, 0))
    return np.concatenate([low, np.clip(high, low + 1, limit)]).astype(np.float32)


def paste_view(
    source: np.ndarray, box: Sequence[float], host: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Another picture with the box's content in it, seen a little otherwise.

    Args:
        source: (H, W, 3) uint8 RGB.
        box: XYXY_ABS in its pixels.
        host: (H', W', 3) uint8 RGB, what it is pasted into.
        rng: draws size, place, turn, perspective, brightness and sharpness.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    height, width = host.shape[:2]
    x0, y0, x1, y1 = (float(value) for value in box)
    sides = np.array([x1 - x0, y1 - y0])
    scale = np.sqrt(rng.uniform(*_PASTED_AREA) * height * width / sides.prod())
    sides = sides * min(scale, 0.95 * width / sides[0], 0.95 * height / sides[1])
    centre = rng.uniform(sides / 2, np.array([width, height]) - sides / 2)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * sides / 2
    corners *= 1 + rng.uniform(-0.15, 0.15, corners.shape)
    angle = np.deg2rad(rng.uniform(-25, 25))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    start = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    matrix = cv2.getPerspectiveTransform(start, (corners @ turn.T + centre).astype(np.float32))
    lit = source * np.float32(rng.uniform(0.7, 1.3)) + np.float32(rng.uniform(-25, 25))
    view = np.clip(lit, 0, 255).astype(np.float32)
    if rng.random() < 0.5:
        view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.5, 1.5))
    mask = np.zeros(source.shape[:2], np.float32)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = 1
    view = cv2.warpPerspective(view, matrix, (width, height))
    # A soft edge: a hard one would be a feature of its own.
    mask = cv2.GaussianBlur(cv2.warpPerspective(mask, matrix, (width, height)), (0, 0), 2)[
        ..., None
    ]
    return np.rint(view * mask + host * (1 - mask)).astype(np.uint8)
