"""The main job through `tools/train_net.py`, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spil_d2.engine.trainer import SpilTrainer
from spil_d2.structures import RankLists, SamplePool
from spil_d2.utils.artifacts import is_published, lock_output_dir, read_manifest

from .conftest import UNREFINED

INFERENCE_FILES = {
    "coco_results.json",
    "final_rank_lists.npz",
    "rank_lists.npz",
    "recall_iou.png",
    "results.json",
    "summary.json",
}


def test_training_writes_its_summary_and_report(undisturbed) -> None:
    output, summaries = undisturbed
    assert list(summaries) == ["ins_mini", "ins_mini_two"]
    summary = json.loads((output / "summary.json").read_text())
    assert summary == json.loads(json.dumps(summaries["ins_mini"]))
    for name in ("miou_search", "miou_final", "ap128_std", "corloc50_final"):
        assert 0 <= summary[name] <= 1, name
    assert summary["seconds"] > 0
    assert len(summary["miou_stage"]) == 2
    final = RankLists.load(output / "inference" / "ins_mini" / "final_rank_lists.npz")
    for one in RankLists.load(output / "stages" / "02" / "rank_lists.npz").lists:
        last = dict(zip(final[one.query_id].image_ids.tolist(), final[one.query_id].boxes))
        assert sorted(last) == sorted(one.image_ids.tolist()), "re-ranking keeps the images"
        for image_id, box, p in zip(one.image_ids.tolist(), one.boxes, one.probabilities):
            if p <= 0.02:  # TAU of the final pool: below, no box is refined.
                np.testing.assert_array_equal(last[image_id], box)
    report = (output / "report.html").read_text()
    assert "stage 1" in report and "data:image/jpeg;base64," in report


def test_each_stage_is_published_with_its_decisions(undisturbed) -> None:
    output, _ = undisturbed
    folders = sorted(path for path in (output / "stages").iterdir())
    assert [path.name for path in folders] == ["00", "01", "02"]
    assert all(is_published(path) for path in folders)
    manifests = [read_manifest(path) for path in folders]
    assert [one["iteration"] for one in manifests] == [0, 4, 8]
    assert manifests[0]["statistics"]["kept"] == 0
    assert all(one["statistics"]["kept"] > 0 for one in manifests[1:])


def test_scalars_are_logged(undisturbed) -> None:
    lines = [
        json.loads(line)
        for line in (undisturbed[0] / "metrics.json").read_text().split("\n")
        if line
    ]
    merged: dict = {}
    for line in lines:
        merged.update(line)
    assert {"pace/kept_ratio", "pace/mean_weight", "total_loss", "lr"} <= set(merged)
    assert merged["pace/stage"] == 2
    assert "localization/mIoU_TP@128" in merged


@pytest.mark.parametrize("name", ["ins_mini", "ins_mini_two"])
def test_every_test_dataset_is_localized(undisturbed, name: str) -> None:
    """The second one inductively: the model was not trained on it."""
    output, summaries = undisturbed
    folder = output / "inference" / name
    assert INFERENCE_FILES <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "summary.json").read_text())["dataset"] == name
    final = RankLists.load(folder / "final_rank_lists.npz")
    assert len(final) == (6 if name == "ins_mini" else 4)
    for one in final.lists:
        assert len(one) > 0
        assert one.probabilities is not None
        assert ((one.probabilities > 0) & (one.probabilities <= 1)).all()
    assert (folder / "report.html").exists() == (name == "ins_mini_two")


def test_eval_only_localizes_with_given_weights(undisturbed, train_net, tmp_path) -> None:
    weights = str(undisturbed[0] / "model_final.pth")
    summaries = train_net(tmp_path, "--eval-only", "MODEL.WEIGHTS", weights, *UNREFINED)
    assert list(summaries) == ["ins_mini"]
    folder = tmp_path / "inference" / "ins_mini"
    assert INFERENCE_FILES | {"report.html"} <= {path.name for path in folder.iterdir()}
    assert json.loads((tmp_path / "summary.json").read_text())["miou_stage"] == []
    assert not (tmp_path / "stages").exists()


def test_a_finished_run_resumes_to_the_same_result(undisturbed, train_net, tmp_path) -> None:
    output = shutil.copytree(undisturbed[0], tmp_path / "copy")
    (again,) = train_net(output, "--resume").values()
    before = dict(undisturbed[1]["ins_mini"])
    assert again.pop("seconds") >= before.pop("seconds")
    assert again == before


def test_another_final_order_needs_no_training(undisturbed, train_net, tmp_path, caplog) -> None:
    output = tmp_path / "run"
    shutil.copytree(undisturbed[0], output)
    pools = [(output / "stages" / k / "pool.json.gz").stat().st_mtime_ns for k in ("00", "01")]
    summaries = train_net(output, "--resume", "SEARCH.RERANK_POWER", "2.0")
    assert summaries["ins_mini"]["fingerprint"] != undisturbed[1]["ins_mini"]["fingerprint"]
    assert summaries["ins_mini"]["miou_final"] == undisturbed[1]["ins_mini"]["miou_final"]
    again = [(output / "stages" / k / "pool.json.gz").stat().st_mtime_ns for k in ("00", "01")]
    assert pools == again


def test_resuming_with_other_keys_names_both_fingerprints(undisturbed, train_net, tmp_path) -> None:
    output = shutil.copytree(undisturbed[0], tmp_path / "copy")
    made_with = read_manifest(output / "stages" / "02")["fingerprint"]
    with pytest.raises(ValueError, match=rf"{made_with}.*has [0-9a-f]{{16}};"):
        train_net(output, "--resume", "SPIL.SWAP_PROB", "0.5")


def test_starting_anew_forgets_the_earlier_run(
    undisturbed, train_net, tmp_path, monkeypatch
) -> None:
    """If it dies before its first checkpoint, --resume must not take up the earlier run."""
    output = shutil.copytree(undisturbed[0], tmp_path / "copy")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SpilTrainer, "run_step", die)
    with pytest.raises(KeyboardInterrupt):
        train_net(output)
    assert [path.name for path in (output / "stages").iterdir()] == ["00"]
    assert not (output / "last_checkpoint").exists()
    with pytest.raises(KeyboardInterrupt):
        train_net(output, "--resume")


def test_an_output_folder_in_use_is_refused(train_net, tmp_path) -> None:
    with lock_output_dir(tmp_path):
        with pytest.raises(RuntimeError, match=r"is in use by another run \(pid \d+"):
            train_net(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["SEED", "-2"], "SEED is -2: use 0 or more, or -1"),
        (["DATASETS.TRAIN", "('ins_mini','ins_mini_two')"], "must name one dataset"),
        (["MODEL.BACKBONE.FREEZE_AT", "2"], "CACHE_VECTORS needs a frozen backbone"),
        (["SPIL.TAU", "[0.5]"], "SPIL.TAU has 1 thresholds; 2 stages"),
        (["TEST.PRECISE_BN.ENABLED", "True"], "TEST.PRECISE_BN"),
        (["SPIL.V_POLICY", "all"], "SPIL.V_POLICY is 'all'.*two_views.*confident_only"),
        (["SPIL.STAGE_INIT", "best"], "SPIL.STAGE_INIT is 'best'.*continue.*restart"),
        (["COATTENTION.SET", "all"], "COATTENTION.SET is 'all'.*pool.*pair"),
        (["COATTENTION.EXTRAS", "on"], "COATTENTION.EXTRAS is 'on'.*extra_gt.*ignore.*off"),
        (["SOLVER.ACCUMULATE", "3"], "SOLVER.ACCUMULATE is 3: use a divisor of the 2 items"),
        (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE is 0"),
    ],
)
def test_what_cannot_work_is_refused_before_it_starts(
    train_net, tmp_path, changes: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_net(tmp_path, *changes)
    assert not (tmp_path / "stages").exists()


def test_the_decisions_other_values_run_to_the_end(train_net, tmp_path) -> None:
    keys = {
        "SPIL.V_POLICY": "confident_only",
        "COATTENTION.SET": "pair",
        "COATTENTION.FINE_FEATURE": "c4",
        "COATTENTION.EXTRAS": "ignore",
        "SOLVER.ACCUMULATE": "2",
    }
    words = [word for pair in keys.items() for word in pair]
    (summary,) = train_net(tmp_path, *words, *UNREFINED).values()
    assert len(summary["miou_stage"]) == 2
    pool = SamplePool.load(tmp_path / "stages" / "01" / "pool.json.gz")
    assert all(one.reference.mask is not None for one in pool.queries)


def test_a_loss_that_is_not_finite_names_its_pictures(
    train_net: Callable[..., dict], tmp_path: Path, datasets_root: Path
) -> None:
    with pytest.raises(FloatingPointError, match="diverged|infinite or NaN") as caught:
        train_net(tmp_path, "SOLVER.BASE_LR", "1e30", "SOLVER.CLIP_GRADIENTS.ENABLED", "False")
    assert any("nan_batch.json" in note for note in caught.value.__notes__)
    noted = json.loads((tmp_path / "nan_batch.json").read_text())
    assert 0 < noted["iteration"] < 8
    assert noted["seed"] == 0 and noted["checkpoint"] is None
    assert len(noted["items"]) == 2
    for item in noted["items"]:
        places = [(item["file_name"], item["box"]), *item["support"]]
        for file_name, (x0, y0, x1, y1) in places:
            assert Path(file_name).is_relative_to(datasets_root / "ins" / "mini")
            assert 0 <= x0 < x1 and 0 <= y0 < y1
        assert 1 <= item["query_id"] <= 6
