"""Training the ranker on labelled regions: start, resume, what is kept and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import load_gallery, register_instance_search
from spil_d2.data.region_crops import Region, labelled_regions
from spil_d2.engine import ranker_trainer
from spil_d2.engine.ranker_inference import EmbedderSettings, RegionEmbedder, evaluate_ranker
from spil_d2.engine.ranker_trainer import (
    RankerTrainer,
    contiguous_labels,
    identity_regions,
    load_ranker,
    train_ranker,
)
from spil_d2.modeling import Ranker
from spil_d2.modeling.ranker import Neck

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/ranker_tiny_instant_test.yaml"


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Detectron2's trainer sets up loggers for the process; sums in one order."""
    loggers = [logging.getLogger(name) for name in ("spil_d2", "detectron2", "fvcore")]
    before = [(one.level, one.propagate, one.handlers[:]) for one in loggers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for one, (level, propagate, handlers) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate, one.handlers = propagate, handlers


def config(*changes):
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list(["MODEL.BF16", "off", *changes])
    cfg.freeze()
    return cfg


@pytest.fixture(scope="module")
def regions(demo_root) -> list[Region]:
    return labelled_regions(load_gallery(demo_root, "demo"))[0]


@pytest.fixture(scope="module")
def labels(demo_root) -> np.ndarray:
    """Identities, the last region of each noise."""
    labels = labelled_regions(load_gallery(demo_root, "demo"))[1].copy()
    for one in np.unique(labels):
        labels[np.flatnonzero(labels == one)[-1]] = -1
    return labels


@pytest.fixture(scope="module")
def undisturbed(regions, labels, tmp_path_factory) -> Path:
    return train_ranker(config(), regions, labels, tmp_path_factory.mktemp("whole") / "ranker")


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    different = [name for name, value in one.items() if not torch.equal(value, other[name])]
    assert not different


def die_at(monkeypatch, iteration: int) -> None:
    step = RankerTrainer.run_step

    def run_step(self: RankerTrainer) -> None:
        if self.iter == iteration:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(RankerTrainer, "run_step", run_step)


def test_the_weights_have_no_classifier_and_have_learned(undisturbed) -> None:
    assert undisturbed.name == "ranker.pth"
    trained = weights_of(undisturbed)
    initial = weights_of(undisturbed.parent / "model_initial.pth")
    assert trained.keys() == initial.keys()
    assert not [name for name in trained if name.startswith("classifier")]
    changed = {name for name, one in trained.items() if not torch.equal(one, initial[name])}
    assert "neck.fc.weight" in changed
    assert all(name.startswith("neck.") for name in changed), "the backbone is frozen"


@pytest.mark.parametrize(
    "changes",
    [(), ("RANKER.CACHE_CROPS", "True"), ("RANKER.CACHED_VIEWS", "2")],
    ids=["files", "crops", "views"],
)
def test_a_killed_training_resumes_bit_by_bit(
    regions, labels, tmp_path, monkeypatch, changes
) -> None:
    cfg = config(*changes)
    whole = train_ranker(cfg, regions, labels, tmp_path / "whole")
    for iteration in (1, 3, 6):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            die_at(patch, iteration)
            train_ranker(cfg, regions, labels, tmp_path / "killed", resume=True)
    resumed = train_ranker(cfg, regions, labels, tmp_path / "killed", resume=True)
    assert_equal(weights_of(whole), weights_of(resumed))


def test_crops_in_memory_are_the_files(undisturbed, regions, labels, tmp_path) -> None:
    cached = train_ranker(config("RANKER.CACHE_CROPS", "True"), regions, labels, tmp_path)
    assert_equal(weights_of(undisturbed), weights_of(cached))


def test_a_finished_training_is_kept(undisturbed, regions, labels, tmp_path, monkeypatch) -> None:
    folder = shutil.copytree(undisturbed.parent, tmp_path / "copy")
    die_at(monkeypatch, 0)
    again = train_ranker(config(), regions, labels, folder, resume=True)
    assert_equal(weights_of(undisturbed), weights_of(again))
    with pytest.raises(KeyboardInterrupt):
        train_ranker(config(), regions, labels, folder)
    assert not (folder / "ranker.pth").exists(), "an earlier run is forgotten"


def test_other_labels_cannot_resume(undisturbed, regions, labels, tmp_path) -> None:
    folder = shutil.copytree(undisturbed.parent, tmp_path / "copy")
    known = json.loads((folder / "run.json").read_text())["fingerprint"]
    other = labels.copy()
    other[0] = -1
    with pytest.raises(ValueError, match=f"other data or keys.*{known}.*has [0-9a-f]"):
        train_ranker(config(), regions, other, folder, resume=True)
    with pytest.raises(ValueError, match="other data"):
        train_ranker(config("SOLVER.BASE_LR", "0.5"), regions, labels, folder, resume=True)


def test_the_numbers_of_clusters_do_not_matter(undisturbed, regions, labels, tmp_path) -> None:
    other = np.where(labels >= 0, 10 * labels + 3, -1)
    assert contiguous_labels(np.array([7, -1, 3, 7, -5])).tolist() == [1, -1, 0, 1, -1]
    assert_equal(
        weights_of(undisturbed), weights_of(train_ranker(config(), regions, other, tmp_path))
    )


def test_the_next_round_starts_with_the_last_ones_weights(
    undisturbed, regions, labels, tmp_path, monkeypatch
) -> None:
    """The neck is not fitted again, and the classifier is a fresh one of another width."""
    cfg = config("MODEL.WEIGHTS", str(undisturbed))
    split = np.where(labels >= 0, np.arange(len(labels)) // 2, -1)
    die_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train_ranker(cfg, regions, split, tmp_path)
    assert_equal(weights_of(undisturbed), weights_of(tmp_path / "model_initial.pth"))


def test_the_neck_starts_near_the_backbones_cosine(regions, labels, tmp_path, monkeypatch) -> None:
    die_at(monkeypatch, 0)
    # Without augmentation the views that the neck is fitted on are the regions again.
    still = [f"RANKER.AUG.{key}" for key in ("FLIP", "PAD", "ERASING")]
    changes = [part for key in still for part in (key, "0" if "PAD" in key else "0.0")]
    changes += ["MODEL.RANKER.NECK_WHITENING", "0.0", "MODEL.RANKER.EMBEDDING_DIM", "600"]
    cfg = config(*changes)
    with pytest.raises(KeyboardInterrupt):
        train_ranker(cfg, regions, labels, tmp_path)
    model = load_ranker(cfg, tmp_path / "model_initial.pth")
    embedder = RegionEmbedder(model, EmbedderSettings.from_config(cfg))
    vectors = embedder.pool(regions)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    embeddings = embedder.embed(regions)
    np.testing.assert_allclose(embeddings @ embeddings.T, centred @ centred.T, atol=0.02)


def test_few_regions_are_fitted_with_views(regions, labels, tmp_path, monkeypatch) -> None:
    """The components of views span more than those of the regions, one less than there are."""
    seen = []
    fit = Neck.fit
    monkeypatch.setattr(Neck, "fit", lambda self, v, w: (seen.append(v), fit(self, v, w)))
    die_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train_ranker(config(), regions, labels, tmp_path)
    (vectors,) = seen
    assert len(vectors) == 8 * len(regions), "472 dimensions want more, 8 is the most"
    centred = (vectors - vectors.mean(dim=0)).double()
    assert torch.linalg.matrix_rank(centred, rtol=1e-5) > len(regions)


def test_embeddings_keep_the_order_and_read_pictures_once(undisturbed, regions) -> None:
    model = load_ranker(config(), undisturbed)
    settings = EmbedderSettings((64, 64), "RGB", batch_size=3, progress=False)
    embedder = RegionEmbedder(model, settings)
    embeddings = embedder.embed(regions)
    assert embeddings.shape == (len(regions), 32) == (len(regions), embedder.dimension)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(regions))
    shuffled = embedder.embed([tuple(regions[i]) for i in order])
    np.testing.assert_allclose(shuffled, embeddings[order], atol=1e-5)
    assert embedder.embed([]).shape == (0, 32)
    assert not model.training


def test_weights_that_lack_the_neck_are_not_loaded(tmp_path) -> None:
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="empty.pth lacks"):
        load_ranker(config(), tmp_path / "empty.pth")


@pytest.fixture
def dataset(demo_root) -> Iterator[str]:
    name = "ins_ranker_test"
    register_instance_search(name, demo_root)
    yield name
    DatasetCatalog.remove(name)


def test_identities_of_datasets_and_splits(dataset, demo_root) -> None:
    regions, labels = identity_regions(config("DATASETS.TRAIN", f"('{dataset}','{dataset}')"))
    once, identities = labelled_regions(load_gallery(demo_root, "demo"))
    assert regions == once + once
    known = len(set(identities.tolist()))
    assert sorted(set(labels.tolist())) == list(range(2 * known)), "none is shared"
    halves = [
        identity_regions(config("DATASETS.TRAIN", f"('{dataset}',)", "RANKER.IDENTITIES", kind))
        for kind in ("part", "rest")
    ]
    assert len(halves[0][0]) + len(halves[1][0]) <= len(once)
    assert not set(halves[0][0]) & set(halves[1][0])


def test_evaluation_is_in_percent(undisturbed, dataset) -> None:
    metrics = evaluate_ranker(config(), load_ranker(config(), undisturbed), dataset)
    assert {"ranker/all_cameras/mAP", "backbone/all_cameras/rank-1"} <= set(metrics)
    assert all(0 <= one <= 100 for one in metrics.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("SEED", "-1"), "SEED must be >= 0"),
        (("MODEL.META_ARCHITECTURE", "QueryRCNN"), "not Ranker"),
        (("MODEL.RANKER.NECK_INIT", "lda"), "NECK_INIT 'lda'.*xavier.*pca"),
        (("RANKER.INSTANCES", "3"), "RANKER.INSTANCES is 3.*divisor of the 4 crops"),
        (("RANKER.INSTANCES", "4"), "half of them at most"),
        (("RANKER.CACHED_VIEWS", "2", "MODEL.BACKBONE.FREEZE_AT", "4"), "frozen backbone"),
        (("RANKER.CACHED_VIEWS", "2", "MODEL.RANKER.POOLING", "gem"), "without weights"),
        (("SOLVER.OPTIMIZER", "Adam"), "use one of"),
        (("SOLVER.ACCUMULATE", "2"), "SOLVER.ACCUMULATE is 2.*use 1"),
    ],
)
def test_what_cannot_work_is_refused(regions, labels, tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        train_ranker(config(*changes), regions, labels, tmp_path)


def test_one_identity_is_refused(regions, labels, tmp_path) -> None:
    with pytest.raises(ValueError, match="1 identities among.*CST.CLUSTERING.EPS"):
        train_ranker(config(), regions, np.zeros(len(regions), np.int64), tmp_path)
    with pytest.raises(ValueError, match="labels do not fit"):
        train_ranker(config(), regions, labels[:-1], tmp_path)


def test_the_last_blocks_can_be_trained(regions, labels, tmp_path) -> None:
    changes = ("MODEL.BACKBONE.FREEZE_AT", "4", "RANKER.BACKBONE_LR_FACTOR", "0.1")
    trainer = train_ranker(config(*changes, "SOLVER.MAX_ITER", "2"), regions, labels, tmp_path)
    trained, initial = weights_of(trainer), weights_of(tmp_path / "model_initial.pth")
    changed = {name for name, one in trained.items() if not torch.equal(one, initial[name])}
    assert any(name.startswith("backbone.c5") for name in changed)
    assert not any(name.startswith("backbone.c4") for name in changed)


def test_a_loss_that_is_not_finite_names_its_crops(
    regions, labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[torch.Tensor] = []
    forward = Ranker.forward

    def diverging(self: Ranker, batch: dict) -> dict:
        losses = forward(self, batch)
        if not self.training or len(fed) < 2:
            fed.extend([batch["labels"]] if self.training else [])
            return losses
        return {name: loss * float("nan") for name, loss in losses.items()}

    monkeypatch.setattr(Ranker, "forward", diverging)
    with pytest.raises(FloatingPointError):
        train_ranker(config(), regions, labels, tmp_path)
    noted = json.loads((tmp_path / "nan_batch.json").read_text())
    assert noted["iteration"] == 2 and noted["weights_are_finite"] is True
    known = {(one.file_name, tuple(one.box)) for one, label in zip(regions, labels) if label >= 0}
    assert len(noted["items"]) == 4
    assert {(one["file_name"], tuple(one["box"])) for one in noted["items"]} <= known


def test_a_resumed_training_keeps_its_initial_weights(
    undisturbed: Path, regions, labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(undisturbed.parent, tmp_path / "copy")
    (copy / undisturbed.name).unlink()

    def again(*_: object) -> None:
        raise AssertionError("made once more")

    monkeypatch.setattr(ranker_trainer, "save_initial_weights", again)
    assert_equal(
        weights_of(train_ranker(config(), regions, labels, copy, resume=True)),
        weights_of(undisturbed),
    )
