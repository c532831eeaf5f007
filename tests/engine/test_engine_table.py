"""The table of engines: what it measures, what it finds again, what it says of missing engines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import load_gallery, load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine import engine_table
from spil_d2.engine.engine_table import Dataset, engine_rows, write_table
from spil_d2.evaluation import GroundTruth, evaluate_rank_lists
from spil_d2.retrieval import (
    SEARCH_ENGINE_REGISTRY,
    build_index,
    build_search_engine,
    search,
)

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"
CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "search").glob("*.yaml"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("table") / "gallery"
    build_demo_gallery(root, num_instances=2, images_per_instance=4, num_distractors=2)
    return Dataset("ins_mini", load_gallery(root, "ins_mini"), load_queries(root))


def config(engine: str, *changes: object):
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list(["SEARCH.ENGINE", engine, "SEARCH.LONGER_SIDE", 96, *changes])
    return cfg


GRID = ("SEARCH.KRECIPROCAL.K1", 3, "SEARCH.KRECIPROCAL.K2", 2)
RMAC = ("SEARCH.DESCRIPTOR_LAYERS", ["c4"], "SEARCH.POOLINGS", ["max"], "SEARCH.LAYER_WEIGHTS", [1])


@pytest.fixture(scope="module")
def grid_rows(dataset, tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("grid")
    rerankings = ["none", "qe+kr"]
    return engine_rows("grid", config("Grid", *GRID), dataset, output, rerankings=rerankings, k=5)


def test_numbers_are_those_of_the_evaluation(dataset, grid_rows) -> None:
    cfg, rows = config("Grid", *GRID), grid_rows
    assert [row["reranking"] for row in rows] == ["none", "qe+kr"]
    engine = build_search_engine(cfg)
    index = build_index(engine, dataset.gallery, is_centred=cfg.SEARCH.CENTRED)
    truth = GroundTruth.from_dataset(dataset.gallery, dataset.queries)
    expected = evaluate_rank_lists(search(engine, index, dataset.queries, 5), truth, 5)
    for name in ("std", "divG", "lab"):
        assert rows[0][f"ap_{name}"] == pytest.approx(expected["search"][f"AP_{name}@5"])
    assert rows[0]["miou_tp"] == pytest.approx(expected["localization"]["mIoU_TP@5"])
    assert rows[0]["regions_per_image"] == 19 and rows[0]["ms_localizing"] == 0
    assert all(row["images_per_second"] > 0 and row["index_mb"] > 0 for row in rows)


def test_rows_and_index_are_found_again(dataset, tmp_path, monkeypatch) -> None:
    cfg = config("RMAC", *RMAC)
    first = engine_rows("rmac", cfg, dataset, tmp_path, rerankings=["none"], k=5)
    assert first[0]["ms_localizing"] > 0

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(engine_table, "build_index", refuse)
    # Another re-ranking is another row of the same index.
    engine_rows("rmac", cfg, dataset, tmp_path, rerankings=["qe"], k=5)
    monkeypatch.setattr(engine_table, "build_search_engine", refuse)
    assert engine_rows("rmac", cfg, dataset, tmp_path, rerankings=["none"], k=5) == first


def test_what_cannot_be_built_is_named_in_the_table(dataset, grid_rows, tmp_path) -> None:
    cfg = config("ViT", "SEARCH.VIT.WEIGHTS", str(tmp_path / "none.pth"))
    missing = engine_rows("vit", cfg, dataset, tmp_path, rerankings=["none"], k=5)
    assert not list(tmp_path.iterdir()), "a later run tries again"
    rows = [*grid_rows, *missing]
    text = write_table(rows, dataset, tmp_path, 5)
    assert "Not measured: vit: SEARCH.VIT.WEIGHTS" in text and "| grid" in text
    assert (tmp_path / "table.md").read_text() == text
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows


def test_unknown_rerankings_are_refused(dataset, tmp_path) -> None:
    with pytest.raises(ValueError, match="'magic'"):
        engine_rows("grid", config("Grid"), dataset, tmp_path, rerankings=["magic"], k=5)


def test_boxes_of_a_localizing_engine_replace_the_whole_picture(dataset) -> None:
    cfg = config("RMAC", *RMAC)
    engine = build_search_engine(cfg)
    index = build_index(engine, dataset.gallery)
    files = {one["image_id"]: one for one in dataset.gallery}
    lists = search(
        engine,
        index,
        dataset.queries,
        3,
        read_image=lambda i: engine_table.read_rgb(files[i]["file_name"]),
    )
    areas = [
        np.prod(box[2:] - box[:2]) / (files[i]["width"] * files[i]["height"])
        for one in lists.lists
        for i, box in zip(one.image_ids.tolist(), one.boxes)
    ]
    assert 0 < min(areas) < 0.9


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_leaf_is_of_a_registered_engine(path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    assert cfg.SEARCH.ENGINE in SEARCH_ENGINE_REGISTRY
    assert cfg.OUTPUT_DIR == f"./output/search_{path.stem}"
