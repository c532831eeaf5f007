"""The search artefact: made once, found again, made anew where something else goes in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from spil_d2 import get_cfg
from spil_d2.data.datasets.instance_search import load_gallery, load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine import search_stage
from spil_d2.engine.search_stage import open_index, search_dataset
from spil_d2.structures import RankLists

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"

RMAC = (
    *("SEARCH.ENGINE", "RMAC", "SEARCH.DESCRIPTOR_LAYERS", ["c4"]),
    *("SEARCH.POOLINGS", ["max"], "SEARCH.LAYER_WEIGHTS", [1.0]),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("search") / "gallery"
    build_demo_gallery(root, num_instances=2, images_per_instance=4, num_distractors=2)
    return load_gallery(root, "ins_mini"), load_queries(root)


def _config(*changes):
    cfg = get_cfg()
    cfg.merge_from_file(str(INSTANT))
    cfg.merge_from_list(["SEARCH.LONGER_SIDE", 96, *changes])
    return cfg


def _search(cfg, dataset, output: Path) -> RankLists:
    return search_dataset(cfg, "ins_mini", *dataset, output)


def test_lists_and_index_are_used_again(dataset, tmp_path, monkeypatch) -> None:
    first = _search(_config(), dataset, tmp_path)
    assert list(first) == [query.id for query in dataset[1]]
    for query in dataset[1]:
        assert not query.own_image_ids & set(first[query.id].image_ids.tolist())

    def refuse(*_: object) -> None:
        raise AssertionError("an engine is built again")

    monkeypatch.setattr(search_stage, "build_search_engine", refuse)
    again = _search(_config("SEARCH.NUM_WORKERS", 3, "SEARCH.RERANK", False), dataset, tmp_path)
    for query_id in first:
        np.testing.assert_array_equal(first[query_id].image_ids, again[query_id].image_ids)
        np.testing.assert_array_equal(first[query_id].boxes, again[query_id].boxes)
    assert len(open_index(_config(), "ins_mini", dataset[0], tmp_path)) == len(dataset[0])


def test_shorter_lists_need_no_new_index(dataset, tmp_path) -> None:
    _search(_config(), dataset, tmp_path)
    short = _search(_config("SEARCH.TOP_K", 3), dataset, tmp_path)
    assert {len(one) for one in short.lists} == {3}
    assert len(list((tmp_path / "index").iterdir())) == 1
    assert len(list((tmp_path / "search").iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        ("SEARCH.QE.ENABLED", True),
        (
            "SEARCH.KRECIPROCAL.ENABLED",
            True,
            "SEARCH.KRECIPROCAL.K1",
            3,
            "SEARCH.KRECIPROCAL.K2",
            2,
        ),
    ],
)
def test_expansion_and_reranking_make_other_lists_of_the_same_index(
    dataset, tmp_path, change
) -> None:
    plain = _search(_config(), dataset, tmp_path)
    other = _search(_config(*change), dataset, tmp_path)
    assert len(list((tmp_path / "index").iterdir())) == 1
    assert any(
        not np.array_equal(plain[query_id].similarities, other[query_id].similarities)
        for query_id in plain
    )


def test_an_engine_that_localizes_at_query_time_reads_the_ranked_pictures(
    dataset, tmp_path
) -> None:
    lists = _search(_config(*RMAC), dataset, tmp_path)
    sizes = {one["image_id"]: (one["width"], one["height"]) for one in dataset[0]}
    areas = []
    for one in lists.lists:
        for image_id, (x0, y0, x1, y1) in zip(one.image_ids.tolist(), one.boxes.tolist()):
            width, height = sizes[image_id]
            assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
            areas.append((x1 - x0) * (y1 - y0) / (width * height))
    assert min(areas) < 0.9, "each box is the whole picture: nothing was localized"


@pytest.mark.parametrize(
    "change",
    [
        ("SEARCH.LONGER_SIDE", 128),
        ("SEARCH.DESCRIPTOR_LAYERS", ["c4", "c5"]),
        ("MODEL.EFFICIENTNET.VARIANT", "lite2"),
        ("MODEL.PIXEL_MEAN", [0.0, 0.0, 0.0]),
    ],
)
def test_another_engine_has_another_index(dataset, tmp_path, change: tuple) -> None:
    _search(_config(), dataset, tmp_path)
    _search(_config(*change), dataset, tmp_path)
    assert len(list((tmp_path / "index").iterdir())) == 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_make_the_index_of_this_one(dataset, tmp_path, num_workers: int) -> None:
    gallery, _ = dataset
    here = open_index(_config(), "ins_mini", gallery, tmp_path / "here")
    there = open_index(
        _config("SEARCH.NUM_WORKERS", num_workers), "ins_mini", gallery, tmp_path / "there"
    )
    np.testing.assert_array_equal(here.image_ids, there.image_ids)
    for image_id in here.image_ids.tolist():
        one, two = here.regions_of(image_id), there.regions_of(image_id)
        np.testing.assert_array_equal(one.boxes, two.boxes)
        # The number of threads may change the last bit of a sum.
        np.testing.assert_allclose(one.embeddings, two.embeddings, atol=2e-3)


def test_given_lists_replace_the_search(dataset, tmp_path) -> None:
    gallery, queries = dataset
    lists = _search(_config(), dataset, tmp_path / "made")
    path = tmp_path / "given.npz"
    RankLists(lists.lists[::-1]).save(path)
    cfg = _config("SEARCH.RANK_LISTS", str(path), "SEARCH.ENGINE", "NoSuchEngine")
    given = _search(cfg, dataset, tmp_path / "unused")
    assert sorted(given) == [query.id for query in queries]
    assert not (tmp_path / "unused").exists()


def test_given_lists_are_of_the_training_dataset(dataset, tmp_path) -> None:
    cfg = _config("SEARCH.RANK_LISTS", str(tmp_path / "missing.npz"))
    other = search_dataset(cfg, "ins_other", *dataset, tmp_path)
    assert list(other) == [query.id for query in dataset[1]]


def test_given_lists_of_another_gallery_are_refused(dataset, tmp_path) -> None:
    gallery, queries = dataset
    lists = _search(_config(), dataset, tmp_path / "made")
    lists.save(tmp_path / "given.npz")
    cfg = _config("SEARCH.RANK_LISTS", str(tmp_path / "given.npz"))
    with pytest.raises(ValueError, match="images that the gallery does not hold"):
        _search(cfg, (gallery[:3], queries), tmp_path)


def test_a_changed_picture_makes_the_index_anew(dataset, tmp_path) -> None:
    gallery, queries = dataset
    copy = tmp_path / "picture.jpg"
    shutil.copy(gallery[-1]["file_name"], copy)
    gallery = [*gallery[:-1], {**gallery[-1], "file_name": str(copy)}]
    _search(_config(), (gallery, queries), tmp_path)
    os.utime(copy, (1, 1))
    _search(_config(), (gallery, queries), tmp_path)
    assert len(list((tmp_path / "index").iterdir())) == 2


def test_given_lists_must_cover_the_queries(dataset, tmp_path) -> None:
    lists = _search(_config(), dataset, tmp_path / "made")
    path = tmp_path / "given.npz"
    RankLists(lists.lists[1:]).save(path)
    missing = dataset[1][0].id
    with pytest.raises(ValueError, match=rf"given\.npz has no list for 1 queries.*\[{missing}\]"):
        _search(_config("SEARCH.RANK_LISTS", str(path)), dataset, tmp_path)


def test_poor_similarities_are_warned_about(dataset, tmp_path, caplog) -> None:
    with caplog.at_level("WARNING"):
        _search(_config("SEARCH.MIN_SIMILARITY", 1.0), dataset, tmp_path)
    assert "below SEARCH.MIN_SIMILARITY" in caplog.text
