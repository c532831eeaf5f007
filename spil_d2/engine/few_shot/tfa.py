"""The baseline: a Faster R-CNN in the manner of TFA (Wang et al., ICML 2020).

Detectron2's GeneralizedRCNN, RPN and standard RoI heads, as they come: trained on the base classes,
then fine-tuned on balanced shots of base and novel classes, where all but the last layers, which
classify and regress boxes, are frozen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data import transforms as T
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import Tensor, nn

from ...data.build import PairDataset, build_pair_loader
from ...data.detection_mapper import DetectionMapper
from ...evaluation.few_shot import FewShotCOCOEvaluator
from ...utils.artifacts import file_sha256, fingerprint, write_json_atomic
from ...utils.checkpoints import read_state
from ..checkpoint import load_weights, save_weights
from ..training import StreamTrainer, build_augmentations
from ..training_run import begin_run, kept_keys
from .evaluation import RESULTS, describe_run, finished_results, finite, result_key
from .task import FewShotTask, with_keys, with_options

logger = logging.getLogger(__name__)

STEPS = ("tfa_base", "tfa_finetune", "tfa")
WEIGHTS = "detector.pth"
"""The trained weights in a step's folder; written last."""

_PREDICTOR = "roi_heads.box_predictor."
_KEYS = ("INPUT", "MODEL", "SOLVER")


def train_tfa(cfg, resume: bool) -> dict:
    """Train and evaluate the steps that FEW_SHOT.STEP names.

    - "tfa_base": on all annotations of the base classes, from MODEL.WEIGHTS on.
    - "tfa_finetune": on base and novel shots, from the base step's weights MODEL.WEIGHTS on.
    - "tfa": both, in `base/` and `{K}shot_seed{s}/` of OUTPUT_DIR.

    Args:
        cfg: frozen; FEW_SHOT.DATASET, SHOTS and SEED name the task.
        resume: go on with the same training in the same folder, or only read what it has reached.

    Returns:
        Name of the test images -> results of the last step, on the main process; elsewhere {}.

    Raises:
        ValueError: for keys that do not fit, or a resumed training of something else.
    """
    _check(cfg)
    task = FewShotTask.from_config(cfg)
    step, output = cfg.FEW_SHOT.STEP, Path(cfg.OUTPUT_DIR)
    if step == "tfa_base":
        return _train_base(cfg, task, resume)
    if step == "tfa":
        base = output / "base"
        _train_base(with_keys(cfg, OUTPUT_DIR=str(base)), task, resume)
        folder = output / f"{task.shots}shot_seed{task.seed}"
        cfg = with_keys(cfg, OUTPUT_DIR=str(folder), MODEL__WEIGHTS=str(base / WEIGHTS))
    return _fine_tune(cfg, task, resume)


def _train_base(cfg, task: FewShotTask, resume: bool) -> dict:
    cfg = detector_config(cfg, task.base_train)
    records = DatasetCatalog.get(task.base_train)
    logger.info("base training of Faster R-CNN on %d images", len(records))
    made_of = _fingerprint(cfg, records)
    return _run(cfg, task, task.base_train, records, made_of, None, resume)


def _fine_tune(cfg, task: FewShotTask, resume: bool) -> dict:
    base = Path(cfg.MODEL.WEIGHTS)
    if not base.is_file():
        raise ValueError(
            f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}: FEW_SHOT.STEP 'tfa_finetune' needs the file "
            f"{WEIGHTS} that the step 'tfa_base' has written"
        )
    cfg = with_options(cfg, cfg.FEW_SHOT.TFA.FINETUNE_OPTS)
    if cfg.FEW_SHOT.TFA.COSINE:
        cfg = with_keys(cfg, MODEL__ROI_HEADS__NAME="CosineROIHeads")
    # The weights of the base step do not fit the model of this one as they are.
    cfg = with_keys(detector_config(cfg, task.shot_records), MODEL__WEIGHTS="")
    records = DatasetCatalog.get(task.shot_records)
    logger.info("fine-tuning Faster R-CNN on %d shots", len(records))
    made_of = _fingerprint(cfg, [*records, file_sha256(base)])
    return _run(cfg, task, task.shot_records, records, made_of, base, resume)


def detector_config(cfg, trained_on: str) -> CfgNode:
    """The configuration with as many classes as a registered data set has."""
    classes = MetadataCatalog.get(trained_on).thing_classes
    return with_keys(cfg, MODEL__ROI_HEADS__NUM_CLASSES=len(classes))


class DetectorTrainer(StreamTrainer):
    """StreamTrainer of a GeneralizedRCNN on a data set's records, each once an epoch."""

    def __init__(self, cfg, records: Sequence[dict], resume: bool = False):
        """
        Args:
            cfg: frozen.
            records: Detectron2 dataset dicts, each with a box.
            resume: go on from the last checkpoint in OUTPUT_DIR.
        """
        # What lies in a model before training must not hang on what this process did before.
        torch.manual_seed(cfg.SEED)
        super().__init__(cfg)
        self.resume_or_load(resume=resume)
        loader = build_pair_loader(
            self._stream(records),
            self.start_iter,
            cfg.SOLVER.IMS_PER_BATCH,
            cfg.DATALOADER.NUM_WORKERS,
        )
        self._trainer.reset_data_loader(lambda: loader)

    def _stream(self, records: Sequence[dict]) -> PairDataset:
        """Records in the place of pairs."""
        cfg = self.cfg
        flip = [] if cfg.INPUT.RANDOM_FLIP == "none" else [T.RandomFlip()]
        mapper = DetectionMapper([*build_augmentations(cfg), *flip], cfg.INPUT.FORMAT)
        return PairDataset(range(len(records)), lambda i, _: records[i], mapper, cfg.SEED)


class FineTuner(DetectorTrainer):
    """Trains the box predictor alone, with the base classes' weights as they were."""

    def __init__(
        self, cfg, records: Sequence[dict], base: Path, places: Sequence[int], resume: bool = False
    ):
        """
        Args:
            cfg, records, resume: as for `DetectorTrainer`.
            base: weights of the base training.
            places: of each base class among this model's classes.
        """
        super().__init__(cfg, records, resume)
        if self.start_iter == 0:
            transfer_weights(self.unwrapped_model, base, places)

    @classmethod
    def build_model(cls, cfg):
        model = super().build_model(cfg)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(_PREDICTOR))
        return model


@torch.no_grad()
def transfer_weights(model: nn.Module, base: Path, places: Sequence[int]) -> None:
    """Give a model for base and novel classes the weights of one for the base classes.

    What the predictor has for novel classes stays as it is: drawn at random.

    Args:
        model: a GeneralizedRCNN.
        base: state dict of one with fewer classes.
        places: of each of the base model's classes among the model's.

    Raises:
        ValueError: the weights are of another network.
    """
    state = read_state(base)
    own = model.state_dict()
    num_base = len(places)
    for name, value in own.items():
        given = state.get(name)
        if given is not None and given.shape == value.shape:
            value.copy_(given)
        elif given is not None and name.startswith(_PREDICTOR):
            _copy_rows(given, value, num_base, places)
        else:
            seen = "no such weights" if given is None else f"the shape {tuple(given.shape)}"
            raise ValueError(
                f"{base} has {seen} for {name} {tuple(value.shape)}: train the base step with the "
                "same MODEL keys"
            )


def _copy_rows(given: Tensor, value: Tensor, num_base: int, places: Sequence[int]) -> None:
    """Rows of classes, (N + 1, ...) with the background last, or (4 N, ...) of their boxes."""
    has_background = len(given) == num_base + 1
    width = 1 if has_background else len(given) // num_base
    for row, place in enumerate(places):
        value[place * width : (place + 1) * width] = given[row * width : (row + 1) * width]
    if has_background:
        value[-1] = given[-1]


class RenumberedClasses(nn.Module):
    """A detector whose answers carry the contiguous class ids of other images."""

    def __init__(self, detector: nn.Module, places: Sequence[int]):
        """
        Args:
            detector: of C classes.
            places: C, what each of its classes is called.
        """
        super().__init__()
        self.detector = detector
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64), persistent=False)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        answers = self.detector(batched_inputs)
        for one in answers:
            found = one["instances"]
            found.pred_classes = self.places.to(found.pred_classes.device)[found.pred_classes]
        return answers


def class_places(trained_on: str, tested_on: str) -> list[int]:
    """Of each class of one registered data set its contiguous id in another one."""
    ours = MetadataCatalog.get(trained_on).thing_dataset_id_to_contiguous_id
    theirs = MetadataCatalog.get(tested_on).thing_dataset_id_to_contiguous_id
    return [theirs[category_id] for category_id in sorted(ours, key=ours.__getitem__)]


def evaluate_detector(cfg, model: nn.Module, trained_on: str, task: FewShotTask) -> dict:
    """COCO's metrics of base, novel and all classes on the task's test images.

    Writes `inference/{name}_test/few_shot.json` in OUTPUT_DIR, last.

    Args:
        cfg: with OUTPUT_DIR, where `detector.pth` lies.
        model: a detector of the classes of `trained_on`.
        trained_on: a registered data set.
        task: with the test images.

    Returns:
        On the main process the results, elsewhere {}; "metrics" has those of FewShotCOCOEvaluator.
    """
    started = time.monotonic()
    folder = Path(cfg.OUTPUT_DIR) / "inference" / task.test
    evaluator = FewShotCOCOEvaluator(
        task.test, output_dir=folder, ims_per_batch=cfg.SOLVER.IMS_PER_BATCH
    )
    detector = RenumberedClasses(model, class_places(trained_on, task.test))
    loader = build_detection_test_loader(cfg, task.test)
    metrics = inference_on_dataset(detector, loader, evaluator)
    if not comm.is_main_process():
        return {}
    results = {
        **describe_run(cfg, task),
        "test_classes": "base" if trained_on == task.base_train else "all",
        "fingerprint": result_key(cfg, Path(cfg.OUTPUT_DIR) / WEIGHTS),
        "metrics": finite(metrics["bbox"]),
        "seconds": time.monotonic() - started,
    }
    write_json_atomic(folder / RESULTS, results)
    return results


def _run(
    cfg,
    task: FewShotTask,
    trained_on: str,
    records: Sequence[dict],
    made_of: str,
    base: Path | None,
    resume: bool,
) -> dict:
    """Train what is not trained yet, evaluate what is not evaluated yet."""
    output = Path(cfg.OUTPUT_DIR)
    weights = output / WEIGHTS
    if begin_run(output, made_of, WEIGHTS, resume):
        folder = output / "inference" / task.test
        results = finished_results(folder, result_key(cfg, weights))
        # Nobody writes before all have read.
        comm.synchronize()
        if results is not None:
            logger.info("%s holds the finished run: nothing is left to do", output)
            return {task.test: results} if comm.is_main_process() else {}
    else:
        if base is None:
            trainer = DetectorTrainer(cfg, records, resume)
        else:
            places = class_places(task.base_train, trained_on)
            trainer = FineTuner(cfg, records, base, places, resume)
        trainer.train()
        if comm.is_main_process():
            save_weights(trainer.unwrapped_model, weights)
        comm.synchronize()
    model = build_model(cfg)
    load_weights(model, weights)
    results = evaluate_detector(cfg, model, trained_on, task)
    return {task.test: results} if comm.is_main_process() else {}


def _fingerprint(cfg, made_of: Sequence) -> str:
    """Of all that the weights depend on; places, device and workers are not among it."""
    rows = [
        [one["image_id"], [[a["category_id"], *map(float, a["bbox"])] for a in one["annotations"]]]
        if isinstance(one, dict)
        else one
        for one in made_of
    ]
    return fingerprint({"of": rows, **kept_keys(cfg, _KEYS)})


def _check(cfg) -> None:
    if cfg.FEW_SHOT.STEP not in STEPS:
        raise ValueError(f"FEW_SHOT.STEP is {cfg.FEW_SHOT.STEP!r}: use one of {STEPS}")
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or cfg.MODEL.MASK_ON:
        raise ValueError(
            f"TFA trains the meta-architecture 'GeneralizedRCNN' without masks, not "
            f"{cfg.MODEL.META_ARCHITECTURE!r} with MODEL.MASK_ON {cfg.MODEL.MASK_ON}: see "
            "configs/FewShot/"
        )
    if cfg.SEED < 0:
        raise ValueError("SEED must be >= 0: a resumed run has to draw what the first one drew")
