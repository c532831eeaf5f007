"""The embedded demo gallery."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from spil_d2.data.datasets.instance_search import check_dataset, load_gallery, load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.data.datasets.synthetic_objects import (
    CUTOUTS,
    cutout_mask,
    instances_mask,
    read_photograph,
)
from spil_d2.data.datasets.synthetic_scene import MAX_AREA, MIN_AREA, compose_scene

SMALL = {"images_per_instance": 2, "num_instances": 4, "num_distractors": 2}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "gallery"
    build_demo_gallery(root, seed=3, **SMALL)
    return root


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def test_it_passes_check_dataset(gallery):
    assert check_dataset(gallery) == []


def test_numbers_of_images_and_queries(gallery):
    dicts = load_gallery(gallery, "ins_demo")
    assert len(dicts) == 4 * 2 + 2
    assert [len(d["annotations"]) for d in dicts[-2:]] == [0, 0]
    images = Counter(a["instance_id"] for d in dicts for a in d["annotations"])
    assert all(images[i] >= 2 for i in (1, 2, 3, 4))
    queries = load_queries(gallery)
    assert Counter(q.instance_id for q in queries) == {1: 2, 2: 2, 3: 2, 4: 2}
    assert sum(not q.own_image_ids for q in queries) == 4


def test_boxes_are_the_tight_boxes_of_the_masks(gallery):
    for record in load_gallery(gallery, "ins_demo"):
        for annotation in record["annotations"]:
            mask = mask_util.decode(annotation["segmentation"])
            assert mask.shape == (record["height"], record["width"])
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            tight = [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["bbox"] == tight
            assert MIN_AREA <= mask.mean() <= MAX_AREA


def test_masks_of_one_image_do_not_overlap(gallery):
    for record in load_gallery(gallery, "ins_demo"):
        masks = [mask_util.decode(a["segmentation"]) for a in record["annotations"]]
        assert not masks or sum(masks).max() == 1


def test_a_gallery_query_has_the_box_of_its_annotation(gallery):
    boxes = {
        (d["image_id"], a["instance_id"]): a["bbox"]
        for d in load_gallery(gallery, "ins_demo")
        for a in d["annotations"]
    }
    for query in load_queries(gallery):
        for image_id in query.own_image_ids:
            x, y, w, h = boxes[image_id, query.instance_id]
            assert query.primary.box == (x, y, x + w, y + h)


def test_the_same_seed_gives_the_same_files(gallery, tmp_path):
    build_demo_gallery(tmp_path / "again", seed=3, **SMALL)
    assert digests(tmp_path / "again") == digests(gallery)
    build_demo_gallery(tmp_path / "other", seed=4, **SMALL)
    assert digests(tmp_path / "other") != digests(gallery)


def test_a_complete_gallery_is_kept(gallery):
    before = {p: p.stat().st_mtime_ns for p in gallery.rglob("*")}
    build_demo_gallery(gallery, seed=3, **SMALL)
    assert {p: p.stat().st_mtime_ns for p in gallery.rglob("*")} == before


def test_a_gallery_of_other_parameters_is_not_overwritten(gallery):
    before = digests(gallery)
    with pytest.raises(ValueError, match="remove the folder"):
        build_demo_gallery(gallery, seed=5, **SMALL)
    assert digests(gallery) == before


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("spil_d2.data.datasets.synthetic._add_queries", fail)
    with pytest.raises(OSError, match="disk full"):
        build_demo_gallery(tmp_path / "demo", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"num_instances": 0},
        {"num_instances": 999},
        {"images_per_instance": 0},
        {"num_distractors": -1},
        {"seed": -1},
    ],
)
def test_parameters_out_of_range(tmp_path, parameters):
    with pytest.raises(ValueError, match="allowed"):
        build_demo_gallery(tmp_path / "demo", **parameters)


@pytest.mark.parametrize("cutout", CUTOUTS, ids=lambda c: c.name)
def test_every_cutout_can_be_placed(cutout):
    mask = cutout_mask(cutout)
    assert mask.shape == read_photograph(cutout.photograph).shape[:2]
    assert set(np.unique(mask)) <= {0, 1} and mask.sum() > 1000
    if not cutout.is_instance:
        return
    assert (instances_mask(cutout.photograph) >= mask).all()
    for size in ((320, 240), (240, 320)):
        scene = compose_scene(cutout, size, np.random.default_rng(0), is_plain=True)
        assert scene.image.shape == (size[1], size[0], 3)
        assert [p.name for p in scene.placements] == [cutout.name]


def test_a_missing_photograph_is_named():
    with pytest.raises(FileNotFoundError, match=r"nothing\.png.*scikit-image"):
        read_photograph("nothing.png")


def test_the_manifest_holds_the_parameters(gallery):
    manifest = json.loads((gallery / "manifest.json").read_text())
    assert {k: manifest[k] for k in SMALL} == SMALL
    assert manifest["seed"] == 3
