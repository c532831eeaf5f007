"""A detector of a user's own classes, from a folder of shots and a folder of unlabeled pictures."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.visualizer import Visualizer

from ...config import get_cfg
from ...data.datasets.instance_search import EVALUATOR_TYPE
from ...modeling import ClassRCNN
from ...utils.artifacts import fingerprint, is_published, lock_output_dir
from ...utils.picture_files import read_pixels
from ..index_config import config_folder, default_device
from ..list_expansion import read_instances
from ..localizer import LocalizerSettings
from ..pair_trainer import load_localizer
from ..pipeline import FINAL_WEIGHTS, train
from ..presets import resolve_config
from .detection import build_detector, build_test_loader, detect_classes, similarity_centre
from .export import export_detector
from .kernels import class_kernels
from .own_shots import OwnShot, OwnTask, load_task, publish_task, read_shots
from .pictures import draw_labels
from .task import with_keys

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "FewShot/Base-OwnClasses-tiny.yaml"
MIN_ITERATIONS = 10
_NUM_PICTURES = 10


@dataclass(frozen=True)
class OwnClassesSettings:
    """How a detector of one's own classes is made.

    Attributes:
        weights: that base training has left (localizer.pth); None starts with the backbone alone.
        config_file: a yaml instead of the tiny preset; the one that `weights` were trained with.
        iterations: of all stages together.
        seed: of all chance.
        opts: KEY VALUE ... on top.
    """

    weights: Path | None = None
    config_file: Path | None = None
    iterations: int = 400
    seed: int = 0
    opts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path in (self.weights, self.config_file):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")
        if self.iterations < MIN_ITERATIONS or self.seed < 0:
            raise ValueError(
                f"{self.iterations} iterations with seed {self.seed}: use at least "
                f"{MIN_ITERATIONS} and 0"
            )


def make_detector(
    shots: str | Path,
    unlabeled: str | Path,
    out: str | Path,
    settings: OwnClassesSettings | None = None,
    images_out: str | Path | None = None,
) -> Path:
    """Search with the shots, train in stages on what is found, and export a detector.

    A run that was killed and is started again with the same arguments goes on; its work lies in
    `.NAME.work` beside `out` until the detector is published.

    Args:
        shots: see `own_shots.read_shots`.
        unlabeled: folder of pictures, also below it.
        out: the directory to publish: config.yaml, model_final.pth, manifest.json.
        settings: see there.
        images_out: folder for the lists that labelled (`rank_lists/`) and for the unlabeled
            pictures with what the detector finds in them (`detections/`).

    Returns:
        `out`.

    Raises:
        ValueError: the folders hold nothing to learn from.
        FileExistsError: `out` is there already.
        RuntimeError: another run makes it.
    """
    settings, out = settings or OwnClassesSettings(), Path(out).absolute()
    if out.exists():
        raise FileExistsError(f"{out} is there already: choose another place, or remove it")
    started = time.monotonic()
    examples = read_shots(Path(shots))
    cfg = _config(settings)
    work = out.parent / f".{out.name}.work"
    with lock_output_dir(work):
        place = work / _name(examples, Path(unlabeled), cfg)
        _remove_others(work, place)
        if not is_published(place / "dataset"):
            publish_task(examples, Path(unlabeled), place / "dataset", skipped=work)
        task = load_task(place / "dataset")
        _describe(task)
        detector, cfg = _train(cfg, task, place, images_out)
        facts = {
            "shots": len(task.queries),
            "unlabeled": len(task.gallery),
            "iterations": settings.iterations,
            "seed": settings.seed,
        }
        export_detector(cfg, detector, task.classes, out, facts)
        if images_out is not None:
            draw_gallery(cfg, detector, task, Path(images_out) / "detections")
    shutil.rmtree(work)
    logger.info("%s was made in %.0f s", out, time.monotonic() - started)
    return out


def draw_gallery(
    cfg, detector: ClassRCNN, task: OwnTask, folder: Path, threshold: float = 0.5
) -> None:
    """Draw what a detector finds in the unlabeled pictures, as `folder`/0000NN.jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = Metadata(thing_classes=list(task.classes))
    loader = build_test_loader(cfg, task.gallery)
    for item, found in detect_classes(detector, loader, "drawing detections"):
        picture = Visualizer(read_pixels(item["file_name"], "RGB"), metadata)
        drawn = picture.draw_instance_predictions(found[found.scores >= threshold]).get_image()
        cv2.imwrite(str(folder / Path(item["file_name"]).name), drawn[:, :, ::-1])


def _config(settings: OwnClassesSettings) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(str(settings.config_file or config_folder() / DEFAULT_CONFIG))
    cfg.MODEL.DEVICE = default_device()
    cfg.SOLVER.MAX_ITER = settings.iterations
    cfg.SOLVER.WARMUP_ITERS = min(cfg.SOLVER.WARMUP_ITERS, settings.iterations // 20)
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, settings.iterations // 8)
    cfg.SEED = settings.seed
    if settings.weights is not None:
        cfg.MODEL.WEIGHTS = str(settings.weights.absolute())
    cfg.merge_from_list(list(settings.opts))
    resolve_config(cfg)
    cfg.freeze()
    return cfg


def _name(shots: Sequence[OwnShot], unlabeled: Path, cfg: CfgNode) -> str:
    """Of a run with these shots, this folder and these keys."""
    shown = [[one.name, str(one.path), one.path.stat().st_mtime_ns, one.box] for one in shots]
    return fingerprint([shown, str(unlabeled.absolute()), cfg.dump()])


def _remove_others(work: Path, place: Path) -> None:
    """What killed runs with other arguments left."""
    for folder in work.iterdir():
        if folder.is_dir() and folder != place:
            shutil.rmtree(folder)


def _describe(task: OwnTask) -> None:
    counts = {
        name: sum(query.category_id == i for query in task.queries)
        for i, name in enumerate(task.classes)
    }
    logger.info("%d unlabeled pictures; shots of each class: %s", len(task.gallery), counts)
    if len(task.classes) == 1:
        logger.warning(
            "there is one class only: training then has no pictures of other things to tell it "
            "from; give shots of other things as classes of their own, or weights"
        )


def _train(
    cfg, task: OwnTask, place: Path, images_out: str | Path | None
) -> tuple[ClassRCNN, CfgNode]:
    """The detector after all stages, and the configuration that it was trained with."""
    name = f"fs_own_{place.name}"
    run = place / "run"
    run.mkdir(exist_ok=True)
    cfg = with_keys(cfg, OUTPUT_DIR=str(run), DATASETS__TRAIN=(name,), DATASETS__TEST=(name,))
    DatasetCatalog.register(name, lambda: task.gallery)
    MetadataCatalog.get(name).set(
        evaluator_type=EVALUATOR_TYPE,
        thing_classes=["object"],
        official_root=str(place),
        load_queries=lambda: task.queries,
    )
    logger.info("seed %d", cfg.SEED)
    seed_all_rng(cfg.SEED)
    try:
        train(cfg, resume=True)
        if images_out is not None:
            folder = Path(images_out) / "rank_lists"
            names = dict(enumerate(task.classes))
            draw_labels(cfg, name, task.gallery, task.queries, names, folder, _NUM_PICTURES)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    model = load_localizer(cfg, run / FINAL_WEIGHTS)
    extra = read_instances(run, task.gallery, task.queries) if cfg.FEW_SHOT.QE.ENABLED else ()
    # γ needs base classes to be chosen on, which a user's folder does not have.
    gamma = max(cfg.FEW_SHOT.GAMMA, 0.0)
    settings = LocalizerSettings.from_config(cfg)
    centre = similarity_centre(cfg, model, task.gallery) if gamma > 0 else None
    kernels = class_kernels(model, settings, task.queries, extra, centre=centre)
    ids = {place: place for place in range(len(task.classes))}
    return build_detector(cfg, model, kernels, ids, gamma), cfg
