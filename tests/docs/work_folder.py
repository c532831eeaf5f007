"""A fresh folder in which the commands of the documentation run as they stand there.

It looks like a checkout: the project's folders are links. What a reader has and a test has not,
pictures, datasets and hours, is replaced by stand-ins under the names that the documentation uses:
generated pictures and datasets, and configurations of the same path that train for seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from spil_d2.data.datasets.few_shot_prepare import write_shot_files
from spil_d2.data.datasets.instance_search import load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery

from ..end_to_end.test_evaluate_tool import GALLERY, QUERY, RECORDS
from ..end_to_end.test_prepare_ins_sot import make_got, make_lasot
from ..engine.few_shot.conftest import CLASSES, NOVEL, write_part
from ..programs import ROOT

LINKS = (
    *("tools", "spil_d2", "demo", "docs", "requirements", "notebooks"),
    *("Makefile", "setup.py", "pyproject.toml", "README.md"),
)
# Configurations that are replaced, and the quick schedule whose network and budget they take.
QUICK = {
    "SPIL/tiny_instre_dev": "spil_tiny",
    "SPIL/tiny_davis_dev": "spil_tiny",
    "SPIL/tiny_demo": "spil_tiny",
    "CST/tiny_instre_dev": "cst_tiny",
    "ranker/tiny": "ranker_tiny",
    "FewShot/tiny_groceries25": "few_shot_tiny",
}
# What the fast preset, a ResNet-50, needs to train in a minute.
FAST: dict[str, Any] = {
    "INPUT": {"MIN_SIZE_TRAIN": [96], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 96},
    "MODEL": {"DEVICE": "cpu", "QUERY": {"CROP_SIZE": 96, "CROP_CONTEXT": 8, "NUM_CROPS": 2}},
    "SEARCH": {"ENGINE": "Grid", "LONGER_SIDE": 128, "NUM_WORKERS": 0, "MIN_SIMILARITY": 0.0},
    "SPIL": {"NUM_STAGES": 1, "STAGE_FRACTIONS": [1.0], "TRAIN_TOP_K": 2, "STAGE_TOP_K": 2},
    "SOLVER": {"MAX_ITER": 2, "WARMUP_ITERS": 1},
    "DATALOADER": {"NUM_WORKERS": 0},
}
# The fine-tuned baseline on the quick schedule's pictures.
TFA: dict[str, Any] = {
    "FEW_SHOT": {"TFA": {"FINETUNE_OPTS": ["SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "(3,)"]}},
    "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 4, "STEPS": [3], "WARMUP_ITERS": 1},
}
FEW_SHOT_DATA: dict[str, Any] = {
    "FEW_SHOT": {"DATASET": "fs_mini"},
    "DATASETS": {"TRAIN": ["fs_mini_base_train"], "TEST": ["fs_mini_test"]},
}


def make_work_folder(folder: Path) -> dict[str, str]:
    """Fill a new folder with the project and all stand-ins.

    Returns:
        Environment variables that commands need there.
    """
    folder.mkdir(parents=True)
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    # `make demo` sets up first: here the environment is there.
    _linked_folder("scripts", folder, without="setup.sh")
    (folder / "scripts" / "setup.sh").write_text("exit 0\n")
    small = folder / "scripts" / "small_demo.sh"
    small.write_text('#!/bin/sh\nexec .venv/bin/python "$@" --instances 2\n')
    small.chmod(0o755)
    _linked_folder("datasets", folder)
    write_configs(folder / "configs")
    write_datasets(folder / "datasets")
    write_pictures(folder)
    write_protocol(folder)
    # Fonts are listed once a home folder, which takes long.
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return {
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": cache,
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }


def _linked_folder(name: str, folder: Path, without: str = "") -> None:
    (folder / name).mkdir()
    for path in (ROOT / name).iterdir():
        if path.is_file() and path.name != without:
            (folder / name / path.name).symlink_to(path)


def write_configs(folder: Path) -> None:
    """The project's configurations; those that train for long inherit from themselves."""
    shutil.copytree(ROOT / "configs", folder)
    changes = {name: _quick(schedule) for name, schedule in QUICK.items()}
    few_shot = changes["FewShot/tiny_groceries25"]
    _merge(few_shot, FEW_SHOT_DATA)
    tfa = {"INPUT": few_shot["INPUT"], "MODEL": {"EFFICIENTNET": {"VARIANT": "lite0"}}}
    for part in (FEW_SHOT_DATA, TFA):
        _merge(tfa, part)
    changes["FewShot/tfa_tiny_groceries25"] = tfa
    changes["SPIL/fast_instre_dev"] = FAST
    for name, keys in changes.items():
        path = folder / f"{name}.yaml"
        whole = {"_BASE_": str(ROOT / "configs" / f"{name}.yaml"), **keys}
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")


def _quick(schedule: str) -> dict[str, Any]:
    """Network and budget of a quick schedule, without its data and its output folder."""
    path = ROOT / "configs" / "quick_schedules" / f"{schedule}_instant_test.yaml"
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in ("_BASE_", "DATASETS", "OUTPUT_DIR"):
        del keys[name]
    return keys


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, Mapping):
            into[key] = dict(into.get(key, {}))
            _merge(into[key], value)
        else:
            into[key] = value


def write_datasets(root: Path) -> None:
    """Small datasets under the names of the documentation, as $DETECTRON2_DATASETS has them."""
    for seed, name in enumerate(("instre_dev", "davis_dev", "my_photos")):
        build_demo_gallery(
            root / "ins" / name,
            seed=seed,
            num_instances=3,
            images_per_instance=4,
            num_distractors=2,
        )
    for name, per_class, novel in (("mini", 8, NOVEL), ("desk", 12, None)):
        folder = root / "few_shot" / name
        write_part(folder, "train", per_class, seed=0)
        write_part(folder, "test", 2, seed=1)
        if novel:
            write_shot_files(folder / "train.json", folder / "shots", novel, (1, 2), (0, 1))
    # The documentation draws the shots of "desk", whose classes have these names.
    names = dict(zip(CLASSES, ("pen", "lamp", "book", "mug", "stapler")))
    for path in (root / "few_shot" / "desk").glob("*.json"):
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["name"] = names[category["name"]]
        path.write_text(json.dumps(content))
    boxes = [f"{10 + 2 * i},10,30,30" for i in range(6)]
    make_lasot(root.parent / "LaSOT", boxes)
    make_got(root.parent / "GOT-10k" / "train", "GOT-10k_Train_000001")
    make_got(root.parent / "GOT-10k" / "val", "GOT-10k_Val_000001")


def write_pictures(folder: Path) -> None:
    """`~/Pictures` and the files that commands on it name."""
    gallery = folder / "datasets" / "ins" / "instre_dev"
    pictures = folder / "home" / "Pictures"
    shutil.copytree(gallery / "images", pictures)
    (folder / "UNLABELED").symlink_to(pictures)
    (folder / "pictures").symlink_to(pictures)
    query = next(one.primary for one in load_queries(gallery) if one.primary.image_id is None)
    # The box in the documentation, 120,80,410,390, is inside.
    cup = cv2.resize(cv2.imread(query.file_name), (480, 440))
    for name in ("cup.jpg", "street.jpg", "a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / name), cup)
    entry = {"image": "cup.jpg", "box": [120, 80, 410, 390]}
    (folder / "things.json").write_text(json.dumps([entry]))
    (folder / "frames").mkdir()
    video = cv2.VideoWriter(
        str(folder / "in.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (480, 440)
    )
    for number in range(3):
        frame = np.roll(cup, 10 * number, axis=1)
        cv2.imwrite(str(folder / "frames" / f"{number}.png"), frame)
        video.write(frame)
    video.release()
    for number, name in enumerate(("mug", "stapler")):
        place = folder / "SHOTS" / name
        place.mkdir(parents=True)
        for shot in range(2):
            cv2.imwrite(str(place / f"{shot}.png"), cup[40 * number :, 40 * shot :])
    (folder / "shots").symlink_to("SHOTS")
    (folder / "DETECTOR").symlink_to("my_detector")


def write_protocol(folder: Path) -> None:
    """Annotations of an INS protocol and predictions that it judges."""
    place = folder / "ANNOTATIONS"
    place.mkdir()
    for name in ("INS_PRW", "INS_CUHK_SYSU"):
        (place / f"{name}_gallery.txt").write_text(GALLERY)
        (place / f"{name}_query.txt").write_text(QUERY)
    for name in ("annotation", "datasets/ANNOTATION"):
        (folder / name).symlink_to(place)
    queries = sorted({str(one["query"]) for one in RECORDS})
    shown = [str(one["image"]).removesuffix(".jpg") for one in RECORDS]
    images = sorted(set(shown))
    records = {
        "query": np.array([queries.index(str(one["query"])) for one in RECORDS]),
        "image": np.array([images.index(name) for name in shown]),
        "bbox": np.array([one["bbox"] for one in RECORDS], np.float32),
        "score": np.array([one["score"] for one in RECORDS], np.float32),
    }
    for name in ("mine.npz", "found.npz"):
        np.savez(folder / name, query_names=queries, image_names=images, **records)
