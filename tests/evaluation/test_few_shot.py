"""The few-shot evaluator against pycocotools called by hand and numbers computed by hand."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spil_d2.evaluation import FewShotCOCOEvaluator, group_metrics, mean_interval

from .few_shot_cases import BASE, IDS, NOVEL, SIZE, evaluate, random_case, registered, truth


@pytest.fixture
def register(tmp_path):
    """Registers annotations as a few-shot test set and returns its name."""
    with registered(tmp_path) as make:
        yield make


def by_hand(path: str, found: dict[int, list[tuple]], category_ids: tuple[int, ...]) -> np.ndarray:
    """The first six numbers of COCOeval with `catIds`, in percent."""
    results = [
        {
            "image_id": image_id,
            "category_id": int(row[0]),
            "score": float(np.float32(row[1])),
            "bbox": [*np.float32(row[2:4]), *(np.float32(row[4:]) - np.float32(row[2:4]))],
        }
        for image_id, rows in found.items()
        for row in rows
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.params.catIds = list(category_ids)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return 100 * np.where(judge.stats[:6] < 0, np.nan, judge.stats[:6])


@pytest.mark.parametrize("use_fast_impl", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_groups_are_cocoeval_with_their_categories(register, seed, use_fast_impl) -> None:
    annotations, found = random_case(seed)
    name = register(annotations, 12)
    results = evaluate(name, found, use_fast_impl=use_fast_impl)
    path = MetadataCatalog.get(name).json_file
    for prefix, ids in (("", IDS), ("b", BASE), ("n", NOVEL)):
        ours = [results[prefix + key] for key in ("AP", "AP50", "AP75", "APs", "APm", "APl")]
        np.testing.assert_allclose(ours, by_hand(path, found, ids), atol=1e-9)
    assert not math.isclose(results["bAP"], results["nAP"])


def test_worked_example(register, caplog) -> None:
    # Novel class 3: two objects. The best detection has IoU 1, the second is a false alarm, the
    # third has IoU 60 x 100 / 100 x 100 = .6. Precision is 1 up to recall .5 (51 of 101 points),
    # then 2/3 at IoU .5, .55 and .6 (50 points) and 0 above. Novel class 9 has an object and
    # no detection: AP 0. Base class 2 is found at once, base class 5 has no object.
    box = [20, 20, 100, 100]
    name = register(
        [truth(1, 0, 3, box), truth(2, 1, 3, box), truth(3, 0, 9, box), truth(4, 2, 2, box)], 3
    )
    found = {
        0: [(3, 0.9, 20, 20, 120, 120)],
        1: [(3, 0.8, 150, 150, 190, 190), (3, 0.7, 20, 20, 80, 120)],
        2: [(2, 0.6, 20, 20, 120, 120)],
    }
    with caplog.at_level(logging.INFO):
        results = evaluate(name, found, ims_per_batch=8)
    half, low = (51 + 50 * 2 / 3) / 101, 51 / 101
    class_3 = (3 * half + 7 * low) / 10
    assert results["nAP"] == pytest.approx(100 * class_3 / 2)
    assert results["nAP50"] == pytest.approx(100 * half / 2)
    assert results["nAP75"] == pytest.approx(100 * low / 2)
    # The objects are large; the false alarm is not, and does not count among large ones.
    assert math.isnan(results["nAPs"])
    assert results["nAPl"] == pytest.approx(100 * (3 + 7 * low) / 10 / 2)
    assert results["bAP"] == pytest.approx(100)
    assert results["AP"] == pytest.approx(100 * (class_3 + 0 + 1) / 3)
    assert results["AP-class 3"] == pytest.approx(100 * class_3)
    assert "(world size 1, training batch 8), in percent" in caplog.text
    for group, prefix in (("all", ""), ("base", "b"), ("novel", "n")):
        value = f"{results[prefix + 'AP']:.2f}"
        assert re.search(rf"^{group}:\n\| +{prefix}AP .*\n.*\n\| +{value} ", caplog.text, re.M)


def test_no_detection_at_all_is_nan_as_in_detectron2(register, caplog) -> None:
    name = register([truth(1, 0, 3, [0, 0, 9, 9])], 1)
    with caplog.at_level(logging.INFO):
        results = evaluate(name, {0: []})
    assert "(world size 1, training batch unknown), in percent" in caplog.text
    assert math.isnan(results["AP"]) and math.isnan(results["nAP"]) and math.isnan(results["bAP"])


def test_base_classes_alone_without_a_coco_file(tmp_path) -> None:
    """As the view `base_val`: the dicts are all there is, contiguous ids are of base classes."""
    name = "few_shot_evaluation_base_val"
    shown = {"bbox": [20, 20, 120, 120], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
    record = {"file_name": "0.jpg", "image_id": 0, "width": SIZE, "height": SIZE}
    dicts = [{**record, "annotations": [{**shown, "category_id": 1}]}]
    DatasetCatalog.register(name, lambda: dicts)
    MetadataCatalog.get(name).set(
        thing_classes=["class 2", "class 5"],
        thing_dataset_id_to_contiguous_id={2: 0, 5: 1},
        base_ids=BASE,
        novel_ids=NOVEL,
    )
    try:
        evaluator = FewShotCOCOEvaluator(name, distributed=False, output_dir=tmp_path)
        evaluator.reset()
        instances = Instances((SIZE, SIZE))
        instances.pred_boxes = Boxes(torch.tensor([[20.0, 20, 120, 120]]))
        instances.scores, instances.pred_classes = torch.tensor([0.5]), torch.tensor([1])
        evaluator.process([{"image_id": 0}], [{"instances": instances}])
        results = evaluator.evaluate()["bbox"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["bAP"] == results["AP"] == pytest.approx(100)
    assert "nAP" not in results


def test_what_cannot_be_evaluated(register) -> None:
    missing = truth(1, 0, 3, [0, 0, 9, 9])
    del missing["area"]
    wrong = "annotation 1 has no ['area'], which COCO's metric asks for; add area (w * h) and"
    with pytest.raises(ValueError, match=re.escape(f"{wrong} iscrowd (0)") + "$"):
        FewShotCOCOEvaluator(register([missing], 1))
    name = "few_shot_evaluation_other"
    DatasetCatalog.register(name, list)
    message = f"{name} has no base_ids and novel_ids; use a view of a few-shot task such "
    message += "as groceries25_test (datasets/README.md)"
    try:
        for known in ({}, {"base_ids": BASE}):
            MetadataCatalog.get(name).set(**known)
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                FewShotCOCOEvaluator(name)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_file_without_annotations_can_be_opened(register) -> None:
    name = register([], 1)
    path = Path(MetadataCatalog.get(name).json_file)
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    FewShotCOCOEvaluator(name, distributed=False)


def test_what_detectron2_is_asked_for(register, monkeypatch) -> None:
    """Boxes alone, of all processes, by the fast judge, unless another one is asked for."""
    name, asked = register([], 1), []

    def record(self: COCOEvaluator, *args: object, **kwargs: object) -> None:
        asked.append((args, kwargs))
        original(self, *args, **kwargs)

    original = COCOEvaluator.__init__
    monkeypatch.setattr(COCOEvaluator, "__init__", record)
    FewShotCOCOEvaluator(name)
    FewShotCOCOEvaluator(name, output_dir=Path("a/b"), distributed=False, use_fast_impl=False)
    boxes = {"tasks": ("bbox",)}
    assert asked == [
        ((name,), {**boxes, "distributed": True, "output_dir": None, "use_fast_impl": True}),
        ((name,), {**boxes, "distributed": False, "output_dir": "a/b", "use_fast_impl": False}),
    ]


def judged_classes() -> SimpleNamespace:
    """As COCOeval is after `accumulate`: 10 IoUs, 3 recalls, the classes, 4 sizes, 3 limits."""
    thresholds = np.linspace(0.5, 0.95, 10)
    labels = ["all", "small", "medium", "large"]
    precision = np.random.default_rng(0).random((10, 3, len(IDS), 4, 3))
    precision[:, :, 1, 1] = -1
    return SimpleNamespace(
        params=SimpleNamespace(catIds=list(IDS), iouThrs=thresholds, areaRngLbl=labels),
        eval={"precision": precision},
    )


def test_group_metrics_are_means_over_some_classes_with_100_boxes_an_image() -> None:
    case = judged_classes()
    precision = case.eval["precision"]
    found = group_metrics(case, (9, 3), "n")
    sizes = {"APs": 1, "APm": 2, "APl": 3}
    for name, iou in (("AP", None), ("AP50", 0), ("AP75", 5), *((key, None) for key in sizes)):
        values = [
            precision[i, r, k, sizes.get(name, 0), 2]
            for i in (range(10) if iou is None else [iou])
            for r in range(3)
            for k in (1, 3)
        ]
        values = [value for value in values if value >= 0]
        assert found.pop(f"n{name}") == pytest.approx(100 * sum(values) / len(values))
    assert found == {}
    assert math.isnan(group_metrics(case, (3,), "n")["nAPs"])
    with pytest.raises(ValueError, match=r"^classes \[77\] were not judged, only \[2, 3, 5, 9\]$"):
        group_metrics(case, (2, 77), "b")


def test_mean_interval() -> None:
    # s = 1, t(.975, 2) = 4.302653 from tables.
    mean, half = mean_interval([10.0, 11.0, 12.0])
    assert mean == pytest.approx(11)
    assert half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    # t(.975, 9) = 2.262157; s^2 = 82.5 / 9.
    mean, half = mean_interval(list(range(10)))
    assert half == pytest.approx(2.262157 * math.sqrt(82.5 / 9 / 10), abs=1e-6)
    mean, half = mean_interval([3.0])
    assert mean == 3 and math.isnan(half)
    assert mean_interval([2.0, 2.0]) == (2.0, 0.0)
    with pytest.raises(ValueError, match="^no values"):
        mean_interval([])
