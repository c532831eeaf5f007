"""Adapting a localizer to an index, and serving it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from spil_d2.engine import adapt as adapt_module
from spil_d2.engine.adapt import MIN_QUERIES, AdaptSettings, adapt
from spil_d2.engine.folder_index import index_folder
from spil_d2.engine.index_directory import LOCALIZER
from spil_d2.engine.refinement import newest_localizer
from spil_d2.engine.searcher import FEATURES, Searcher
from spil_d2.structures import RankLists

pytestmark = pytest.mark.timeout(600)

SETTINGS = AdaptSettings(iterations=8, depth=4)


@pytest.fixture(scope="module")
def adapted(demo_index, demo_queries, tmp_path_factory):
    """A copy of the demo index with a localizer that two queries have trained."""
    place = tmp_path_factory.mktemp("adapted") / "demo.index"
    shutil.copytree(demo_index, place)
    adapt(place, references_of(place, demo_queries[:2]), SETTINGS)
    return place


def references_of(place, queries):
    with Searcher.open(place) as searcher:
        return [[searcher.query_image(one.primary.file_name, [one.primary.box])] for one in queries]


def test_the_localizer_serves_refinement(adapted, demo_queries) -> None:
    with Searcher.open(adapted) as searcher:
        assert searcher.can_refine and searcher.info()["adapted"]
        one = demo_queries[0].primary
        query = searcher.query_image(one.file_name, [one.box])
        hits = searcher.search([query], 5)
        refined = list(searcher.refine([query], hits))
        again = [next(searcher.refine([query], hits)) for _ in range(2)]
    assert [(hit.rank, hit.image, hit.similarity) for hit in refined] == [
        (hit.rank, hit.image, hit.similarity) for hit in hits
    ]
    assert again[0] == again[1] == refined[0]
    for hit in refined:
        width, height = searcher.image_size(hit.image_id)
        x0, y0, x1, y1 = hit.box
        assert 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height and 0 <= hit.score <= 1
        if hit.mask is not None:
            json.dumps(hit.mask)
            assert mask_util.decode(hit.mask).shape == (height, width)
    assert any(hit.mask is not None for hit in refined)


def test_maps_of_refined_pictures_are_kept_where_it_is_asked_for(adapted, demo_queries) -> None:
    def refined(cache_gb: float):
        with Searcher.open(adapted, cache_gb) as searcher:
            one = demo_queries[0].primary
            query = searcher.query_image(one.file_name, [one.box])
            return list(searcher.refine([query], searcher.search([query], 3)))

    exact = refined(0)
    assert not (adapted / FEATURES).exists()
    first = refined(0.1)
    assert len(list((adapted / FEATURES).iterdir())) == 3
    assert refined(0.1) == first
    assert [hit.score for hit in first] == pytest.approx([hit.score for hit in exact], abs=1e-3)
    shutil.rmtree(adapted / FEATURES)


def test_a_lost_picture_is_left_out_and_the_others_come(adapted, demo_queries, caplog) -> None:
    with Searcher.open(adapted) as searcher:
        one = demo_queries[0].primary
        query = searcher.query_image(one.file_name, [one.box])
        hits = searcher.search([query], 3)
        whole = list(searcher.refine([query], hits))
        lost = [replace(hits[0], image="gone.png", score=1.0), *hits[1:]]
        path_of = searcher.image_path
        searcher.image_path = lambda i: (
            adapted / "gone.png" if i == hits[0].image_id else path_of(i)
        )
        rest = list(searcher.refine([query], lost))
    assert [hit.image_id for hit in rest] == [hit.image_id for hit in whole[1:]]
    assert "gone.png is not refined" in caplog.text


def test_a_box_is_refined_in_the_displayed_frame(adapted, demo_queries, tmp_path) -> None:
    """The same picture, stored turned by EXIF: the same box of the displayed picture."""
    with Searcher.open(adapted) as searcher:
        one = demo_queries[0].primary
        query = searcher.query_image(one.file_name, [one.box])
        (hit,) = searcher.search([query], 1)
        pixels = searcher.read_image(hit.image_id)
        exif = Image.Exif()
        exif[274] = 8
        stored = Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_270)
        upright, turned = tmp_path / "upright.png", tmp_path / "turned.png"
        Image.fromarray(pixels).save(upright)
        stored.save(turned, exif=exif)
        refiner, shown = searcher._refiner, [(query.image, query.boxes)]
        (a,) = refiner.refine(shown, [hit], lambda _: upright)
        (b,) = refiner.refine(shown, [hit], lambda _: turned)
    assert a.box == b.box and a.score == b.score


def test_nothing_but_the_localizer_stays(adapted) -> None:
    assert not (adapted / "adapt").exists()
    place = newest_localizer(adapted / LOCALIZER)
    assert sorted(one.name for one in place.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.pth",
    ]


def test_the_data_set_is_made_of_the_ranked_pictures(demo_index, demo_queries, tmp_path) -> None:
    queries = references_of(demo_index, demo_queries[:2])
    with Searcher.open(demo_index) as searcher:
        companions = adapt_module._companions(searcher, queries, SETTINGS)
        near = {hit.image_id for one in queries for hit in searcher.search(one, SETTINGS.depth)}
        adapt_module._write_dataset(tmp_path, searcher, [*queries, *companions], SETTINGS)
        lists = RankLists.load(tmp_path / "rank_lists.npz")
        expected = searcher.search(queries[0], SETTINGS.depth)
    assert 0 < len(companions) <= MIN_QUERIES - 2
    assert not {one[0].image_id for one in companions} & near
    assert lists[1].image_ids.tolist() == [hit.image_id for hit in expected]
    np.testing.assert_allclose(lists[1].boxes, [hit.box for hit in expected], rtol=1e-4)
    images = json.loads((tmp_path / "annotations.json").read_text())["images"]
    assert {one["id"] for one in images} >= near


def test_a_killed_adaptation_goes_on_with_the_old_localizer_meanwhile(
    adapted, demo_queries, tmp_path, monkeypatch
) -> None:
    place = tmp_path / "index"
    shutil.copytree(adapted, place)
    before = newest_localizer(place / LOCALIZER)
    queries = references_of(place, demo_queries[1:3])
    run_step = adapt_module.SpilTrainer.run_step

    def mortal(self):
        if self.iter == 5:
            raise KeyboardInterrupt
        run_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(adapt_module.SpilTrainer, "run_step", mortal)
        with pytest.raises(KeyboardInterrupt):
            adapt(place, queries, SETTINGS)
    assert newest_localizer(place / LOCALIZER) == before
    started = []

    def noted(self):
        started.append(self.iter)
        run_step(self)

    monkeypatch.setattr(adapt_module.SpilTrainer, "run_step", noted)
    after = adapt(place, queries, SETTINGS)
    assert started[0] > 0 and started[-1] == 7
    assert int(after.name) == int(before.name) + 1
    assert [one.name for one in (place / LOCALIZER).iterdir()] == [after.name]


def test_an_update_of_the_index_keeps_the_localizer(adapted, demo_root, instant) -> None:
    index_folder(demo_root / "images", adapted, instant, progress=False)
    with Searcher.open(adapted) as searcher:
        assert searcher.can_refine


@pytest.mark.parametrize(
    "bad", [{"iterations": 7}, {"depth": 1}, {"seed": -1}], ids=["iterations", "depth", "seed"]
)
def test_settings_are_checked(bad) -> None:
    with pytest.raises(ValueError, match="allowed are 8, 2 and 0"):
        replace(SETTINGS, **bad)


def test_a_query_is_needed(demo_index) -> None:
    with pytest.raises(ValueError, match="at least one query"):
        adapt(demo_index, [])
