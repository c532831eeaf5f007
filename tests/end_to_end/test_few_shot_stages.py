"""Stages with query expansion, verification, second pass and ignore regions, also after a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from spil_d2.data.datasets.instance_search import load_gallery, load_queries
from spil_d2.engine import self_training
from spil_d2.engine.list_expansion import read_instances
from spil_d2.engine.trainer import SpilTrainer
from spil_d2.ops.numpy_boxes import paired_iou
from spil_d2.structures import Query, RankLists, RegionLists, SamplePool

NAME = "few_shot_mini"
TAU, MARGIN, MAX_IOU = 0.02, 0.01, 0.4
KEYS = {
    "DATASETS.TRAIN": f"('{NAME}',)",
    "DATASETS.TEST": f"('{NAME}',)",
    "SPIL.NUM_STAGES": "3",
    "SPIL.STAGE_FRACTIONS": "[0.34,0.33,0.33]",
    "SPIL.STAGE_LR_STEPS": "[0.8,0.7,0.7]",
    "SPIL.TAU": f"[{TAU},{TAU},{TAU}]",
    "SPIL.TRAIN_TOP_K": "4",
    "SPIL.STAGE_TOP_K": "4",
    "SPIL.REFINE_BOXES": "none",
    "SOLVER.MAX_ITER": "6",
    "SEARCH.TOP_K": "5",
    "TEST.REFINE_BOXES": "none",
    "TEST.DETECTIONS_PER_IMAGE": "5",
    "FEW_SHOT.QE.ENABLED": "True",
    "FEW_SHOT.QE.AFTER_STAGE": "0",
    "FEW_SHOT.QE.NUM_INSTANCES": "2",
    "FEW_SHOT.QE.THRESHOLD": str(TAU),
    "FEW_SHOT.QE.TOP_K": "9",
    "FEW_SHOT.VERIFY.ENABLED": "True",
    "FEW_SHOT.VERIFY.K": "3",
    "FEW_SHOT.SECOND_PASS.LABELS": "True",
    "FEW_SHOT.SECOND_PASS.FINAL": "True",
    "FEW_SHOT.IGNORE_OTHERS.ENABLED": "True",
    "FEW_SHOT.IGNORE_OTHERS.MARGIN": str(MARGIN),
    "FEW_SHOT.IGNORE_OTHERS.MAX_IOU": str(MAX_IOU),
}
ARGUMENTS = [word for pair in KEYS.items() for word in pair]


@pytest.fixture(scope="module")
def dataset(datasets_root) -> Iterator[tuple[list[dict], list[Query]]]:
    """The small gallery, whose instances are classes here."""
    root = datasets_root / "ins" / "mini"

    def queries() -> list[Query]:
        return [replace(one, category_id=one.instance_id) for one in load_queries(root)]

    DatasetCatalog.register(NAME, lambda: load_gallery(root, NAME))
    MetadataCatalog.get(NAME).set(load_queries=queries, evaluator_type="instance_search")
    yield DatasetCatalog.get(NAME), queries()
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture(scope="module")
def whole(train_net: Callable[..., dict], dataset, tmp_path_factory) -> Path:
    """Output of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole")
    train_net(output, *ARGUMENTS)
    return output


def _pool(output: Path, stage: int) -> SamplePool:
    return SamplePool.load(output / "stages" / f"{stage:02d}" / "pool.json.gz")


def _lists(output: Path, name: str) -> RankLists:
    return RankLists.load(output / "stages" / name)


def test_later_stages_have_the_longer_lists(whole, dataset) -> None:
    (search,) = (whole / "search").glob("*/rank_lists.npz")
    searched = RankLists.load(search)
    longer = _lists(whole, "01/expanded_lists.npz")
    assert {len(one) for one in searched.lists} == {5}
    assert any(len(one) > 5 for one in longer.lists)
    assert [one.name for one in whole.glob("stages/*/expanded_lists.npz")] == ["expanded_lists.npz"]
    for query in dataset[1]:
        image_ids = longer[query.id].image_ids.tolist()
        assert len(image_ids) <= 9 and not query.own_image_ids & set(image_ids)
        assert len(_pool(whole, 0)[query.id].candidates) == 4
        for stage in (1, 2, 3):
            candidates = _pool(whole, stage)[query.id].candidates
            assert [one.image_id for one in candidates] == image_ids
            localized = _lists(whole, f"{stage:02d}/rank_lists.npz")[query.id]
            assert localized.image_ids.tolist() == image_ids


def test_instances_are_there_for_the_test_kernels(whole, dataset) -> None:
    gallery, queries = dataset
    instances = RegionLists.load(whole / "stages" / "01" / "instances.npz")
    found = read_instances(whole, gallery, queries)
    assert 0 < len(found) == sum(len(one) for one in instances.lists) <= 2 * len(queries)
    assert {one.category_id for one in found} <= {one.category_id for one in queries}
    assert not {one.id for one in found} & {one.id for one in queries}


def test_labels_are_verified_second_looks(whole) -> None:
    """A label is the localized box, and the vote has taken some away."""
    for stage in (1, 2):
        localized = _lists(whole, f"{stage:02d}/rank_lists.npz")
        kept = sure = 0
        for one in _pool(whole, stage).queries:
            ranked = localized[one.query_id]
            boxes = dict(zip(ranked.image_ids.tolist(), ranked.boxes.tolist()))
            sure += int((ranked.probabilities > TAU).sum())
            for candidate in one.candidates:
                if candidate.target is not None:
                    kept += 1
                    assert list(candidate.target.box) == boxes[candidate.image_id]
        assert 0 < kept < sure


def test_other_boxes_are_ignored(whole) -> None:
    num_ignored = 0
    for stage in (1, 2):
        others = RegionLists.load(whole / "stages" / f"{stage:02d}" / "other_boxes.npz")
        for one in _pool(whole, stage).queries:
            assert (others[one.query_id].localizer_scores > TAU - MARGIN).all()
            for candidate in one.candidates:
                if candidate.target is None:
                    continue
                rows = others[one.query_id].image_ids == candidate.image_id
                boxes = others[one.query_id].boxes[rows]
                label = np.tile(np.array(candidate.target.box, np.float32), (len(boxes), 1))
                expected = boxes[paired_iou(boxes, label) <= MAX_IOU].tolist()
                ignored = [list(box) for box, weight in candidate.target.extras if weight == 0]
                assert ignored == expected
                num_ignored += len(ignored)
    assert num_ignored > 0
    assert not list((whole / "stages" / "00").glob("other*")) + list(
        (whole / "stages" / "03").glob("other*")
    )


class _Killed(BaseException):
    """Nothing in the package catches it."""


def _kill_after(patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """The process dies once the function has run."""
    original = getattr(owner, name)

    def die(*args, **kwargs):
        original(*args, **kwargs)
        raise _Killed(name)

    patch.setattr(owner, name, die)


def test_a_killed_run_ends_the_same(whole, train_net, dataset, tmp_path) -> None:
    # When the lists have grown and the ignore regions are known, before they are published; in the
    # stage that has the longer lists; and when the boxes after that stage are looked at again.
    for owner, name in (
        (self_training, "find_other_boxes"),
        (SpilTrainer, "run_step"),
        (self_training, "refine_boxes"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            _kill_after(patch, owner, name)
            with pytest.raises(_Killed, match=name):
                train_net(tmp_path, "--resume", *ARGUMENTS)
    train_net(tmp_path, "--resume", *ARGUMENTS)
    one, other = (
        torch.load(folder / "model_final.pth", weights_only=False)["model"]
        for folder in (whole, tmp_path)
    )
    different = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert not different, f"{len(different)} of {len(one)} differ: {different[:5]}"
    files = sorted(path.relative_to(whole) for path in whole.glob("stages/*/*.npz"))
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.glob("stages/*/*.npz"))
    for path in (*files, Path("inference") / NAME / "final_rank_lists.npz"):
        with np.load(whole / path) as a, np.load(tmp_path / path) as b:
            assert a.files == b.files
            for name in a.files:
                np.testing.assert_array_equal(a[name], b[name], f"{name} of {path}")
    assert all(_pool(whole, stage) == _pool(tmp_path, stage) for stage in range(4))
