"""Training the ranker on labelled regions: identities in pre-training, clusters in a round."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn
from tqdm import tqdm

from ..backbones import load_all_weights
from ..data.datasets.identity_split import split_dataset
from ..data.datasets.instance_search import get_queries
from ..data.ranker_stream import (
    Augmentation,
    AugmentedViews,
    CropStream,
    IdentitySampler,
    RegionReader,
    VectorStream,
    build_stream_loader,
)
from ..data.region_crops import Region, RegionCrops, labelled_regions, read_regions
from ..modeling import Ranker
from ..modeling.ranker import NECK_INITS
from ..structures import NOISE
from ..utils.artifacts import fingerprint, write_json_atomic
from ..utils.checkpoints import SafeCheckpointer
from .checkpoint import AtomicPathManager
from .ranker_inference import EmbedderSettings, RegionEmbedder, evaluate_ranker, train_split
from .training import StreamTrainer, build_optimizer
from .training_run import begin_run, kept_keys, noted_failures

logger = logging.getLogger(__name__)

WEIGHTS = "ranker.pth"
"""The trained weights in a training's folder, without a classifier; written last."""
INITIAL_WEIGHTS = "model_initial.pth"
SUMMARY = "summary.json"
# What principal components are found on: so many regions at most and, where they are few, so many
# views of each as give so many vectors a dimension. With fewer vectors than dimensions, the neck
# would be blind to all that these regions do not vary in.
_MAX_FITTED = 20000
_VECTORS_A_DIMENSION = 4
_MAX_VIEWS = 8


class RankerTrainer(StreamTrainer):
    """Trains a Ranker on a stream of P x K batches.

    A run is a function of its configuration, regions, labels and SEED: killed anywhere and
    resumed, it ends with the same weights.
    """

    def __init__(self, cfg, regions: Sequence[Region], labels: np.ndarray, resume: bool = False):
        """
        Args:
            cfg: frozen, with MODEL.RANKER.NUM_IDENTITIES = C.
            regions: N.
            labels: (N,) int64 in [0, C), or NOISE.
            resume: go on from the last checkpoint in OUTPUT_DIR.
        """
        super().__init__(cfg)
        self.resume_or_load(resume=resume)
        if self.start_iter == 0:
            # MODEL.WEIGHTS may hold a classifier of other clusters.
            self.unwrapped_model.reset_classifier(cfg.SEED)
        self._regions = [one for one, label in zip(regions, labels) if label >= 0]
        self._sampler = _sampler(self.cfg, labels[labels >= 0])
        stream = build_stream(self.cfg, self.unwrapped_model, regions, labels)
        loader = build_stream_loader(stream, self.start_iter, self.cfg.DATALOADER.NUM_WORKERS)
        self._trainer.reset_data_loader(lambda: loader)

    @property
    def log_period(self) -> int:
        return self.cfg.RANKER.LOG_PERIOD

    def run_step(self) -> None:
        """As DefaultTrainer's; see `noted_failures`."""
        with noted_failures(self, self._batch):
            super().run_step()

    def _batch(self) -> list[dict]:
        """File and box of each crop, in pixels of the stored pictures."""
        world = comm.get_world_size()
        numbers = range(self.iter * world, (self.iter + 1) * world)
        rows = np.concatenate([self._sampler.batch(number) for number in numbers])
        return [self._regions[row]._asdict() for row in rows.tolist()]

    @classmethod
    def build_optimizer(cls, cfg, model: nn.Module) -> torch.optim.Optimizer:
        factor = cfg.RANKER.BACKBONE_LR_FACTOR
        return build_optimizer(cfg, model, lambda name: factor if "backbone." in name else 1.0)


def train_ranker(
    cfg,
    regions: Sequence[Region],
    labels: np.ndarray,
    output_dir: str | Path,
    resume: bool = False,
) -> Path:
    """Train on labelled regions: a whole run of its own, from MODEL.WEIGHTS on.

    Optimizer, learning rate and classifier are fresh ones. A neck that MODEL.WEIGHTS does not hold
    starts as MODEL.RANKER.NECK_INIT says, on all regions, those of noise too.

    Args:
        cfg: of the meta-architecture "Ranker". MODEL.WEIGHTS is a ranker's weights, a backbone's,
            or "" where the backbone brings its own.
        regions: N.
        labels: (N,) int; any numbers for identities or clusters, NOISE or less for what is not
            trained on.
        output_dir: folder of this training.
        resume: go on with the training of the same regions and labels in that folder, or return
            at once if it is finished; else what lies there is forgotten.

    Returns:
        The weights, `output_dir`/ranker.pth, for `load_ranker` or another MODEL.WEIGHTS.

    Raises:
        ValueError: for keys that do not fit, fewer than two identities, or a resumed training of
            something else.
    """
    labels = contiguous_labels(labels)
    if len(labels) != len(regions):
        raise ValueError(f"{len(labels)} labels do not fit {len(regions)} regions")
    output = Path(output_dir)
    cfg = _training_config(cfg, int(labels.max(initial=NOISE)) + 1, output)
    _check(cfg)
    weights = output / WEIGHTS
    made_of = _run_fingerprint(cfg, regions, labels)
    if begin_run(output, made_of, WEIGHTS, resume, parts=(INITIAL_WEIGHTS,)):
        logger.info("%s is there already: nothing is left to do", weights)
        return weights
    if comm.is_main_process() and not (output / INITIAL_WEIGHTS).is_file():
        save_initial_weights(cfg, regions, output / INITIAL_WEIGHTS)
    comm.synchronize()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(output / INITIAL_WEIGHTS)
    cfg.freeze()
    logger.info(
        "training the ranker on %d regions of %d identities, %d of noise are left out",
        int((labels >= 0).sum()),
        cfg.MODEL.RANKER.NUM_IDENTITIES,
        int((labels < 0).sum()),
    )
    trainer = RankerTrainer(cfg, regions, labels, resume)
    trainer.train()
    if comm.is_main_process():
        _save(trainer.unwrapped_model, weights)
    comm.synchronize()
    return weights


def load_ranker(cfg, weights: str | Path) -> Ranker:
    """The ranker of a configuration with trained weights, without classifier, for inference.

    Raises:
        ValueError: the file lacks weights of the model.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.RANKER.NUM_IDENTITIES = 0
    model = build_model(cfg)
    load_all_weights(model, str(weights))
    return model.eval()


def train_identities(cfg, resume: bool) -> dict[str, dict[str, float]]:
    """Pre-train on the identities of DATASETS.TRAIN and judge those of DATASETS.TEST.

    Writes `ranker.pth` and `summary.json` into OUTPUT_DIR.

    Returns:
        On the main process dataset name -> metrics in percent, elsewhere {}.
    """
    regions, identities = identity_regions(cfg)
    weights = train_ranker(cfg, regions, identities, cfg.OUTPUT_DIR, resume)
    if not comm.is_main_process():
        return {}
    model = load_ranker(cfg, weights)
    summaries = {name: evaluate_ranker(cfg, model, name) for name in cfg.DATASETS.TEST}
    write_json_atomic(Path(cfg.OUTPUT_DIR) / SUMMARY, summaries)
    return summaries


def evaluate_identities(cfg, model: Ranker, name: str) -> dict[str, dict[str, float]]:
    """{name: metrics} of a trained ranker on the main process, elsewhere {}."""
    return {name: evaluate_ranker(cfg, model, name)} if comm.is_main_process() else {}


def identity_regions(cfg) -> tuple[list[Region], np.ndarray]:
    """Annotated boxes of DATASETS.TRAIN and their identities, those of RANKER.IDENTITIES.

    Identities of different datasets are different, whatever their numbers.

    Returns:
        N regions and (N,) int64 labels.
    """
    split = train_split(cfg)
    regions: list[Region] = []
    labels: list[int] = []
    for name in cfg.DATASETS.TRAIN:
        gallery, _ = split_dataset(DatasetCatalog.get(name), get_queries(name), split)
        some, identities = labelled_regions(gallery)
        taken = max(labels, default=-1) + 1
        regions += some
        labels += (taken + np.unique(identities, return_inverse=True)[1]).tolist()
    return regions, np.array(labels, np.int64)


def build_stream(
    cfg, model: Ranker, regions: Sequence[Region], labels: np.ndarray
) -> CropStream | VectorStream:
    """The batches of a training: of crops, or of vectors that the frozen backbone gives once."""
    node, settings = cfg.RANKER, EmbedderSettings.from_config(cfg)
    regions = [one for one, label in zip(regions, labels) if label >= 0]
    labels = labels[labels >= 0]
    sampler = _sampler(cfg, labels)
    augment = _augmentation(cfg).build(settings.size)
    if node.CACHED_VIEWS:
        pictures = RegionCrops(regions, settings.size, settings.image_format)
        views = AugmentedViews(pictures, node.CACHED_VIEWS, augment, cfg.SEED)
        vectors = RegionEmbedder(model, settings).pool_views(views, len(regions))
        return VectorStream(torch.from_numpy(vectors), labels, sampler, cfg.SEED)
    crops = RegionReader(regions, settings.size, settings.image_format)
    if node.CACHE_CROPS:
        bar = partial(tqdm, desc="crop", unit="picture")
        cached = read_regions(regions, settings.size, settings.image_format, bar)
        return CropStream(cached.__getitem__, labels, sampler, augment, cfg.SEED)
    return CropStream(crops, labels, sampler, augment, cfg.SEED)


def _sampler(cfg, labels: np.ndarray) -> IdentitySampler:
    """Of the rows of a process's batches; labels (N,) of what is trained on."""
    share, instances = cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(), cfg.RANKER.INSTANCES
    return IdentitySampler(labels, share // instances, instances, cfg.SEED)


def save_initial_weights(cfg, regions: Sequence[Region], path: Path) -> None:
    """What a training starts with: MODEL.WEIGHTS, and a neck where they hold none."""
    torch.manual_seed(cfg.SEED)
    model = build_model(cfg)
    # Detectron2 only logs which weights a file lacks.
    with torch.no_grad():
        model.neck.fc.weight.fill_(float("nan"))
    SafeCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    if bool(model.neck.fc.weight.isnan().any()):
        model.neck.reset()
        if cfg.MODEL.RANKER.NECK_INIT == "pca":
            model.neck.fit(_fit_vectors(cfg, model, regions), cfg.MODEL.RANKER.NECK_WHITENING)
    _save(model, path)


def _fit_vectors(cfg, model: Ranker, regions: Sequence[Region]) -> torch.Tensor:
    """(M, V) pooled vectors of regions and, where they are few, of augmented views of them."""
    settings = EmbedderSettings.from_config(cfg)
    embedder = RegionEmbedder(model, settings)
    rows = np.linspace(0, len(regions) - 1, min(len(regions), _MAX_FITTED)).astype(int)
    some = [regions[row] for row in rows]
    vectors = [embedder.pool(some)]
    wanted = math.ceil(_VECTORS_A_DIMENSION * model.vector_dim / len(some))
    num_views = min(wanted, _MAX_VIEWS) - 1
    if num_views > 0:
        pictures = RegionCrops(some, settings.size, settings.image_format)
        augment = _augmentation(cfg).build(settings.size)
        views = AugmentedViews(pictures, num_views, augment, cfg.SEED)
        vectors += list(embedder.pool_views(views, len(some)))
    return torch.from_numpy(np.concatenate(vectors))


def contiguous_labels(labels: np.ndarray) -> np.ndarray:
    """(N,) any int -> (N,) int64: 0 .. C - 1 in the order of the numbers, NOISE for those < 0."""
    labels = np.asarray(labels, np.int64)
    result = np.full(labels.shape, NOISE, np.int64)
    known = labels >= 0
    result[known] = np.unique(labels[known], return_inverse=True)[1]
    return result


def _augmentation(cfg) -> Augmentation:
    node = cfg.RANKER.AUG
    return Augmentation(
        flip=node.FLIP,
        pad=node.PAD,
        color_jitter=node.COLOR_JITTER,
        grayscale=node.GRAYSCALE,
        blur=node.BLUR,
        erasing=node.ERASING,
        fill=tuple(cfg.MODEL.PIXEL_MEAN),
    )


def _training_config(cfg, num_identities: int, output: Path):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(output)
    cfg.MODEL.RANKER.NUM_IDENTITIES = num_identities
    cfg.freeze()
    return cfg


def _save(model: Ranker, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with AtomicPathManager().open(str(path), "wb") as file:
        torch.save({"model": model.embedding_state()}, file)


def _run_fingerprint(cfg, regions: Sequence[Region], labels: np.ndarray) -> str:
    """Of all that the weights depend on; places, device and workers are not among it."""
    return fingerprint(
        {
            "regions": [[Path(one.file_name).name, *map(float, one.box)] for one in regions],
            "labels": labels.tolist(),
            **kept_keys(cfg, ("INPUT", "MODEL", "SOLVER", "RANKER")),
        }
    )


def _check(cfg) -> None:
    ranker, node, solver = cfg.MODEL.RANKER, cfg.RANKER, cfg.SOLVER
    if cfg.MODEL.META_ARCHITECTURE != "Ranker":
        raise ValueError(f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, not Ranker")
    if ranker.NUM_IDENTITIES < 2:
        raise ValueError(
            f"{ranker.NUM_IDENTITIES} identities among the labelled regions: training needs two at "
            "least. Where they are clusters, a larger CST.CLUSTERING.EPS or more regions give more"
        )
    if cfg.SEED < 0:
        raise ValueError("SEED must be >= 0: a resumed run has to draw what the first one drew")
    if ranker.NECK_INIT not in NECK_INITS:
        raise ValueError(f"MODEL.RANKER.NECK_INIT {ranker.NECK_INIT!r}: use one of {NECK_INITS}")
    # Batches are scaled with the number of processes if there is a reference.
    share = solver.IMS_PER_BATCH // (solver.REFERENCE_WORLD_SIZE or comm.get_world_size())
    if node.INSTANCES < 1 or share % node.INSTANCES or share < 2 * node.INSTANCES:
        raise ValueError(
            f"RANKER.INSTANCES is {node.INSTANCES}: use a divisor of the {share} crops that a "
            "process takes of SOLVER.IMS_PER_BATCH, half of them at most"
        )
    if solver.ACCUMULATE > 1:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {solver.ACCUMULATE}: the ranker's losses compare the crops of a "
            "whole batch, use 1"
        )
    if node.CACHED_VIEWS and (cfg.MODEL.BACKBONE.FREEZE_AT < 5 or ranker.POOLING == "gem"):
        raise ValueError(
            "RANKER.CACHED_VIEWS needs a wholly frozen backbone and a pooling without weights: set "
            "MODEL.BACKBONE.FREEZE_AT to 5 and MODEL.RANKER.POOLING to 'avg' or 'avg+max', or "
            "RANKER.CACHED_VIEWS to 0"
        )
