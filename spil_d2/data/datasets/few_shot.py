"""Few-shot detection tasks: K shots of novel classes, all annotations of base classes.

For instance search the shots of the novel classes are the queries and the training images without
the shots' images, their labels hidden, are the gallery (SPIL Section 4; spec D24, D25).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .few_shot_classes import COCO_SPLIT, ClassSplit
from .few_shot_shots import ShotFolder, ShotSource
from .few_shot_views import Dicts, FewShotFiles, contiguous_ids
from .instance_search import EVALUATOR_TYPE
from .official import ProtocolFacts

__all__ = [
    "COCO_SPLIT",
    "DETECTION_EVALUATOR_TYPE",
    "ClassSplit",
    "FewShotFiles",
    "register_few_shot",
    "register_shots",
    "register_task",
]

DETECTION_EVALUATOR_TYPE = "few_shot_coco"


def register_few_shot(
    name: str,
    *,
    train_json: str | Path,
    train_roots: Sequence[str | Path],
    test_json: str | Path,
    test_roots: Sequence[str | Path],
    shots_dir: str | Path,
    split: ClassSplit,
    shots: int,
    seed: int,
) -> list[str]:
    """Register the views of a task with one number of shots and one seed; nothing is read yet.

    Registering the same again does nothing, and views that K and seed do not change are shared.

    - `{name}_base_train`: images with base boxes (contiguous ids of the base classes alone).
    - `{name}_base_val`: training images held out of it, base boxes.
    - `{name}_test`: all test images with all boxes (contiguous ids of all classes).
    - `{name}_{K}shot_seed{s}`: instance search. The gallery is the training images but those of
      the shots; `get_queries` gives a query for each shot of a novel class.
    - `{name}_{K}shot_seed{s}_shots`: one record for each base or novel shot.

    The metadata of each view has `base_ids`, `novel_ids` (the dataset's), `category_names` (id ->
    name) and `few_shot_name` (`name`), those of shots also `shots` and `seed`.

    Args:
        name: of the task.
        train_json, test_json: COCO-format files with the classes of `split`.
        train_roots, test_roots: folders of pictures.
        shots_dir: folder with `full_box_{K}shot_{class}_trainval.json` and `seed{s}/`.
        split: base and novel classes.
        shots: K.
        seed: s.

    Returns:
        The names.

    Raises:
        ValueError: a name stands for something else.
    """
    files = FewShotFiles(
        _absolute(train_json),
        tuple(map(_absolute, train_roots)),
        _absolute(test_json),
        tuple(map(_absolute, test_roots)),
        split,
    )
    source = ShotFolder(_absolute(shots_dir))
    return register_task(name, files) + register_shots(name, files, source, shots, seed)


def register_task(name: str, files: FewShotFiles) -> list[str]:
    """Register the views of `register_few_shot` that do not depend on the shots."""
    base, everything = files.split.base, files.split.ids
    test = {"json_file": str(files.test_json), "image_root": str(files.test_roots[0])}
    views: list[tuple[str, Callable[[], Dicts], tuple[int, ...], dict[str, Any]]] = [
        ("base_train", files.base_train, base, {}),
        ("base_val", files.base_val, base, {}),
        ("test", files.test_dicts, everything, test),
    ]
    names = []
    for view, load, ids, facts in views:
        facts = {**facts, **_detection_facts(files.split, ids)}
        names.append(_register(f"{name}_{view}", name, files, load, files.mark, facts))
    return names


def register_shots(
    name: str,
    files: FewShotFiles,
    source: ShotSource,
    shots: int,
    seed: int,
) -> list[str]:
    """Register the views of `register_few_shot` that depend on the shots.

    Args:
        name: of the task.
        files: of the task.
        source: gives the shots.
        shots: K.
        seed: s; a source that knows only one list takes no notice.
    """
    drawn = functools.cache(lambda: tuple(source.load(files.split, shots, seed)))
    label = f"{shots}shot_seed{seed}"
    facts: dict[str, Any] = {"shots": shots, "seed": seed}
    search = {
        "evaluator_type": EVALUATOR_TYPE,
        "thing_classes": ["object"],
        "official_root": str(files.train_json.parent),
        "load_queries": lambda: files.queries(drawn()),
        "load_facts": ProtocolFacts,
    }
    fine_tuning = _detection_facts(files.split, files.split.ids)
    mark = f"{files.mark} {source} {shots} {seed}"
    return [
        _register(
            f"{name}_{label}", name, files, lambda: files.gallery(drawn()), mark, facts | search
        ),
        _register(
            f"{name}_{label}_shots",
            name,
            files,
            lambda: files.shot_dicts(drawn()),
            mark,
            facts | fine_tuning,
        ),
    ]


def _register(
    view: str,
    name: str,
    files: FewShotFiles,
    load: Callable[[], Dicts],
    mark: str,
    facts: Mapping[str, Any],
) -> str:
    if view in DatasetCatalog.list():
        if MetadataCatalog.get(view).get("few_shot_source") == mark:
            return view
        raise ValueError(f"data set {view!r} is already registered for something else than {mark}")
    DatasetCatalog.register(view, load)
    split = files.split
    MetadataCatalog.get(view).set(
        few_shot_name=name,
        few_shot_source=mark,
        base_ids=split.base,
        novel_ids=split.novel,
        category_names=dict(split.names),
        **facts,
    )
    return view


def _detection_facts(split: ClassSplit, ids: Sequence[int]) -> dict[str, Any]:
    return {
        "evaluator_type": DETECTION_EVALUATOR_TYPE,
        "thing_classes": [split.names[i] for i in ids],
        "thing_dataset_id_to_contiguous_id": contiguous_ids(ids),
    }


def _absolute(path: str | Path) -> Path:
    # Links stay as they are: folders are known by their names.
    return Path(os.path.abspath(os.path.expanduser(path)))
