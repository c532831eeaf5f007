"""Few-shot tasks that are registered on import: COCO's, the shared ones, and the user's folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from .few_shot import register_shots, register_task
from .few_shot_classes import COCO_SPLIT, NOVEL_NAMES, ClassSplit
from .few_shot_prepare import SPLIT_FILE, ShotFacts
from .few_shot_shots import SampledShots, ShotFolder, ShotList, ShotSource
from .few_shot_views import FewShotFiles
from .fields import DatasetError

logger = logging.getLogger(__name__)

COCO_SHOTS = (1, 2, 3, 5, 10, 30)
COCO_SEEDS = tuple(range(10))
FEWX_LIST = "coco/new_annotations/final_split_voc_10_shot_instances_train2017.json"

_SMALL_SHOTS, _SMALL_SEEDS = (1, 5, 10), (0, 1, 2)
_GROCERIES = (
    "beans cake candy cereal chips chocolate coffee corn fish flour honey jam juice milk nuts oil "
    "pasta rice soda spices sugar tea tomato_sauce vinegar water"
).split()

GROCERIES_SPLIT = ClassSplit.draw(dict(enumerate(_GROCERIES, 1)), num_novel=10, seed=0)
"""15 base and 10 novel classes, drawn once and for all."""

# There the 80 classes are numbered from 1 to 80.
_COCO256_SPLIT = ClassSplit.from_names(
    dict(enumerate((COCO_SPLIT.names[one] for one in COCO_SPLIT.ids), 1)), NOVEL_NAMES["coco"]
)


def register_few_shot_builtin(root: Path) -> list[str]:
    """Register the few-shot tasks that lie under a root of data sets.

    `groceries25` and `coco256` (shots drawn in memory), `coco_few_shot` (published files),
    `coco_fewx10shot` (the same with FewX's list) and `fs_NAME` for each folder `few_shot/NAME`. A
    name that is taken stays with what has it.

    Args:
        root: $DETECTRON2_DATASETS, or the shared folder's `data`.

    Returns:
        The names of the tasks.
    """
    names = [
        *_register_drawn(root / "groceries25", GROCERIES_SPLIT, ("train", "test")),
        *_register_drawn(root / "coco256", _COCO256_SPLIT, ("train2017", "val2017"), fewer=True),
        *_register_coco(root),
    ]
    if (root / "few_shot").is_dir():
        for folder in sorted((root / "few_shot").iterdir()):
            names += _register_folder(folder)
    return names


def _register_drawn(
    folder: Path, split: ClassSplit, parts: tuple[str, str], fewer: bool = False
) -> list[str]:
    """A task in a folder with two annotation files and two image folders of the same names."""
    files = _two_parts(folder, parts, split)
    if not files.train_json.is_file():
        return []
    source = SampledShots(files.train_json, _SMALL_SHOTS, fewer)
    return _register_all(folder.name, files, source, _SMALL_SHOTS, _SMALL_SEEDS)


def _register_coco(root: Path) -> list[str]:
    coco, lists = root / "coco", root / "cocosplit"
    train = ("trainval2014", "train2014", "val2014", "train2017")
    test = ("val2014", "trainval2014", "val2017")
    files = FewShotFiles(
        train_json=lists / "datasplit" / "trainvalno5k.json",
        train_roots=tuple(coco / one for one in train),
        test_json=lists / "datasplit" / "5k.json",
        test_roots=tuple(coco / one for one in test),
        split=COCO_SPLIT,
        minival=True,
    )
    if not files.train_json.is_file():
        return []
    names = _register_all("coco_few_shot", files, ShotFolder(lists), COCO_SHOTS, COCO_SEEDS)
    if (root / FEWX_LIST).is_file():
        names += _register_all("coco_fewx10shot", files, ShotList(root / FEWX_LIST), (10,), (0,))
    return names


def _register_folder(folder: Path) -> list[str]:
    """A folder with train.json, train/, test.json, test/ and shots/ with its split file."""
    shots = folder / "shots"
    if not (shots / SPLIT_FILE).is_file():
        return []
    try:
        facts = ShotFacts.load(shots)
    except DatasetError as error:
        logger.warning("Skipped a few-shot task: %s", error)
        return []
    files = _two_parts(folder, ("train", "test"), facts.split)
    return _register_all(f"fs_{folder.name}", files, ShotFolder(shots), facts.shots, facts.seeds)


def _register_all(
    name: str, files: FewShotFiles, source: ShotSource, shots: Sequence[int], seeds: Sequence[int]
) -> list[str]:
    if f"{name}_test" in DatasetCatalog.list():
        return []
    register_task(name, files)
    for k in shots:
        for seed in seeds:
            register_shots(name, files, source, k, seed)
    return [name]


def _two_parts(folder: Path, parts: tuple[str, str], split: ClassSplit) -> FewShotFiles:
    train, test = (folder / one for one in parts)
    jsons = [folder / f"{one}.json" for one in parts]
    return FewShotFiles(jsons[0], (train,), jsons[1], (test,), split)
