"""Detecting classes by the kernels of their shots, and choosing γ on base classes alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.evaluation import COCOEvaluator, inference_context
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ...data.datasets.instance_search import get_queries
from ...modeling import ClassRCNN, QueryRCNN
from ...modeling.class_detector import weighted_scores
from ...structures import Query, Reference
from ..localizer import LocalizerSettings
from .kernels import ClassKernels, class_kernels, mean_descriptor
from .task import FewShotTask, with_keys

logger = logging.getLogger(__name__)

TEST_CLASSES = ("novel", "all")
AUTO_GAMMA = -1.0
_TUNING_DETECTIONS = 300
"""Detections of a held-out image before γ orders and cuts them."""


def build_detector(
    cfg, model: QueryRCNN, kernels: ClassKernels, class_ids: Mapping[int, int], gamma: float
) -> ClassRCNN:
    """A detector of the classes, sharing the model's weights, in evaluation mode.

    Args:
        cfg: TEST.DETECTIONS_PER_IMAGE.
        model: the localizer.
        kernels: of the classes; with descriptors where `gamma` > 0.
        class_ids: category id -> the detector's `pred_classes`.
        gamma: γ.
    """
    detector = ClassRCNN(
        detector=model,
        kernels=kernels.kernels,
        descriptors=kernels.descriptors,
        centre=kernels.centre,
        class_ids=[class_ids[one] for one in kernels.categories],
        gamma=gamma,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
    return detector.to(model.device).eval()


def build_test_loader(cfg, gallery: Sequence[dict]) -> DataLoader:
    """Pictures one by one at the test size; each process has its share."""
    return build_detection_test_loader(
        list(gallery),
        mapper=DatasetMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def detect_classes(
    detector: ClassRCNN, loader: Iterable[list[dict]], label: str
) -> Iterator[tuple[dict, Instances]]:
    """Run a detector over a loader of this process.

    Yields:
        The item without its pixels, and its instances in pixels of the stored image, on the CPU.
    """
    with inference_context(detector), torch.no_grad():
        for batch in tqdm(loader, label, disable=not comm.is_main_process()):
            for item, found in zip(batch, detector(batch), strict=True):
                record = {key: value for key, value in item.items() if key != "image"}
                yield record, found["instances"].to("cpu")


def task_shots(cfg, task: FewShotTask) -> list[Query]:
    """The shots of the classes that FEW_SHOT.TEST_CLASSES says."""
    chosen = cfg.FEW_SHOT.TEST_CLASSES
    if chosen not in TEST_CLASSES:
        raise ValueError(f"FEW_SHOT.TEST_CLASSES is {chosen!r}: use one of {TEST_CLASSES}")
    novel = get_queries(task.search)
    return novel if chosen == "novel" else [*novel, *base_shots(task)]


def base_shots(task: FewShotTask) -> list[Query]:
    """The K shots of each base class, as queries numbered by their place in the data set."""
    records = DatasetCatalog.get(task.shot_records)
    metadata = MetadataCatalog.get(task.shot_records)
    category_of = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    base = set(MetadataCatalog.get(task.test).base_ids)
    shots = []
    for number, record in enumerate(records):
        for annotation in record["annotations"]:
            category = category_of[annotation["category_id"]]
            if category not in base:
                continue
            x0, y0, x1, y1 = BoxMode.convert(
                annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS
            )
            width, height = record["width"], record["height"]
            box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            reference = Reference(record["file_name"], width, height, box)
            shots.append(Query(number, (reference,), category, category))
    return shots


def similarity_centre(cfg, model: QueryRCNN, gallery: Sequence[dict]) -> Tensor | None:
    """(D,) where similarities are seen from (`mean_descriptor`); None where FEW_SHOT.GAMMA is 0.

    Args:
        cfg: FEW_SHOT.GAMMA and CENTRE_IMAGES.
        model: that will detect.
        gallery: the unlabeled pictures.
    """
    if cfg.FEW_SHOT.GAMMA == 0:
        return None
    settings = LocalizerSettings.from_config(cfg)
    return mean_descriptor(model, settings, gallery, cfg.FEW_SHOT.CENTRE_IMAGES)


def resolve_gamma(
    cfg, model: QueryRCNN, task: FewShotTask, centre: Tensor | None, folder: Path
) -> float:
    """γ of FEW_SHOT.GAMMA, or the best of FEW_SHOT.GAMMAS on held-out base images.

    Args:
        cfg: frozen.
        model: that will detect.
        task: whose base classes are judged.
        centre: of `similarity_centre`.
        folder: for what Detectron2's evaluator writes.
    """
    if cfg.FEW_SHOT.GAMMA != AUTO_GAMMA:
        return cfg.FEW_SHOT.GAMMA
    gallery = DatasetCatalog.get(task.base_val)
    gallery = gallery[:: max(1, len(gallery) // cfg.FEW_SHOT.GAMMA_IMAGES)]
    gallery = gallery[: cfg.FEW_SHOT.GAMMA_IMAGES]
    shots = base_shots(task)
    kernels = class_kernels(model, LocalizerSettings.from_config(cfg), shots, centre=centre)
    ids = MetadataCatalog.get(task.base_val).thing_dataset_id_to_contiguous_id
    wide = with_keys(cfg, TEST__DETECTIONS_PER_IMAGE=_TUNING_DETECTIONS)
    # Any γ > 0 gives similarities; the cut to the best comes after rescoring.
    detector = build_detector(wide, model, kernels, ids, 1.0)
    found = list(detect_classes(detector, build_test_loader(cfg, gallery), "choosing gamma"))
    found = [one for part in comm.all_gather(found) for one in part]
    top = cfg.TEST.DETECTIONS_PER_IMAGE
    judged = {
        gamma: _ap50(task.base_val, [(x, _rescored(one, gamma, top)) for x, one in found], folder)
        for gamma in cfg.FEW_SHOT.GAMMAS
    }
    best = max(judged, key=lambda gamma: (judged[gamma], -gamma))
    logger.info("AP50 on held-out base images for each gamma: %s; %g is used", judged, best)
    return best


def _rescored(found: Instances, gamma: float, top: int) -> Instances:
    scores = weighted_scores(found.probabilities, found.similarities, gamma)
    best = torch.argsort(scores, descending=True, stable=True)[:top]
    kept = found[best]
    kept.scores = scores[best]
    return kept


def _ap50(name: str, found: Sequence[tuple[dict, Instances]], folder: Path) -> float:
    """Of detections on some of a data set's images, in percent."""
    evaluator = COCOEvaluator(name, ("bbox",), distributed=False, output_dir=str(folder))
    evaluator.reset()
    for item, instances in found:
        evaluator.process([item], [{"instances": instances}])
    image_ids = [item["image_id"] for item, _ in found]
    return float(evaluator.evaluate(img_ids=image_ids)["bbox"]["AP50"])
