"""Searching an index: ranks, scores, boxes, against loops over the engine's own regions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import spil_d2
from spil_d2.data.pictures import UnreadablePictureError, read_picture
from spil_d2.engine.folder_index import index_folder
from spil_d2.engine.searcher import QueryImage, Searcher, check_box, read_query


@pytest.fixture(scope="module")
def references(searcher, demo_queries) -> list[QueryImage]:
    """Each query of the demo data set as a picture."""
    return [searcher.query_image(one.primary.file_name, [one.primary.box]) for one in demo_queries]


def naive_similarities(searcher: Searcher, query: np.ndarray) -> dict[int, float]:
    """Image id -> largest cosine of its regions with one query, all with plain loops."""
    regions = searcher._regions
    return {
        image_id: max(
            float(regions.compare(query[None], one[None])[0, 0])
            for one in regions.regions_of(image_id).embeddings
        )
        for image_id, _ in searcher.images()
    }


def test_hits_are_ranked_by_the_largest_similarity(searcher, references) -> None:
    query = references[0]
    hits = searcher.search([query], 5)
    expected = naive_similarities(searcher, searcher.embed([query])[0])
    order = sorted(expected, key=lambda image_id: -expected[image_id])[:5]
    assert [hit.image_id for hit in hits] == order
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    for hit in hits:
        assert hit.similarity == pytest.approx(expected[hit.image_id], abs=2e-3)
        assert 0 <= hit.score <= 1
        assert searcher.image_path(hit.image_id).name == hit.image
        width, height = searcher.image_size(hit.image_id)
        x0, y0, x1, y1 = hit.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert all(a.score >= b.score for a, b in zip(hits, hits[1:]))


def test_the_best_of_several_references(searcher, references) -> None:
    shown = [references[0], references[2]]
    hits = searcher.search(shown, 4, combine="max")
    each = [naive_similarities(searcher, one) for one in searcher.embed(shown)]
    own = {one.image_id for one in shown}
    expected = {i: max(one[i] for one in each) for i in each[0] if i not in own}
    order = sorted(expected, key=lambda image_id: -expected[image_id])[:4]
    assert [hit.image_id for hit in hits] == order


def test_the_mean_of_several_references(searcher, references) -> None:
    one = references[0]
    x0, y0, x1, y1 = one.boxes[0]
    two = QueryImage(one.image, (one.boxes[0], (x0, y0, x1, (y0 + y1) / 2)))
    mean = searcher.embed([two]).mean(axis=0)
    expected = naive_similarities(searcher, mean / np.linalg.norm(mean))
    order = sorted(expected, key=lambda image_id: -expected[image_id])[:4]
    assert [hit.image_id for hit in searcher.search([two], 4)] == order
    again = [QueryImage(one.image, (box,)) for box in two.boxes]
    for a, b in zip(searcher.search(again, 4), searcher.search([two], 4), strict=True):
        assert (a.image, a.box) == (b.image, b.box)
        # Boxes together are pooled in another order of sums.
        assert (a.score, a.similarity) == pytest.approx((b.score, b.similarity), abs=1e-4)


def test_a_reference_of_the_index_is_left_out(searcher, demo_queries) -> None:
    query = next(one for one in demo_queries if one.primary.image_id is not None)
    shown = searcher.query_image(query.primary.file_name, [query.primary.box])
    names = {path: image_id for image_id, path in searcher.images()}
    assert shown.image_id == names[query.primary.file_name.rsplit("/", 1)[1]]
    everything = searcher.search([shown], 100)
    assert shown.image_id not in {hit.image_id for hit in everything}
    assert len(everything) == len(names) - 1
    fewer = searcher.search([shown], 100, excluded=[everything[0].image_id])
    assert [hit.image_id for hit in fewer] == [hit.image_id for hit in everything[1:]]


def test_reranking_and_expansion_keep_the_cosine(demo_root, demo_queries, instant, tmp_path):
    """k-reciprocal re-ranking orders the same pictures anew; their similarities stay."""
    plain, other = tmp_path / "plain", tmp_path / "reranked"
    index_folder(demo_root / "images", plain, instant, progress=False)
    opts = ("SEARCH.KRECIPROCAL.ENABLED", "True", "SEARCH.KRECIPROCAL.K1", "4")
    settings = replace(instant, opts=opts)
    index_folder(demo_root / "images", other, settings, progress=False)
    one = demo_queries[0].primary
    with Searcher.open(plain) as a, Searcher.open(other) as b:
        expected = a.search([a.query_image(one.file_name, [one.box])], 12)
        found = b.search([b.query_image(one.file_name, [one.box])], 12)
    assert [hit.rank for hit in found] == list(range(1, 13))
    cosines = {hit.image: hit.similarity for hit in expected}
    assert {hit.image: hit.similarity for hit in found} == pytest.approx(cosines, abs=2e-3)


def test_an_engine_that_looks_for_boxes_afterwards(demo_root, demo_queries, instant, tmp_path):
    opts = ("SEARCH.ENGINE", "RMAC", "SEARCH.DESCRIPTOR_LAYERS", "['c5']")
    opts += ("SEARCH.POOLINGS", "['max']", "SEARCH.LAYER_WEIGHTS", "[1.0]")
    settings = replace(instant, opts=opts)
    index_folder(demo_root / "images", tmp_path / "index", settings, progress=False)
    one = demo_queries[0].primary
    with Searcher.open(tmp_path / "index") as searcher:
        hits = searcher.search([searcher.query_image(one.file_name, [one.box])], 4)
        sizes = [searcher.image_size(hit.image_id) for hit in hits]
    for hit, (width, height) in zip(hits, sizes, strict=True):
        x0, y0, x1, y1 = hit.box
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
    assert any(hit.box != (0, 0, *size) for hit, size in zip(hits, sizes, strict=True))


def test_scores_do_not_depend_on_k(searcher, references) -> None:
    assert searcher.search([references[0]], 2) == searcher.search([references[0]], 9)[:2]


def test_threads_share_a_searcher(searcher, references) -> None:
    alone = [searcher.search([one], 3) for one in references]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: searcher.search([one], 3), references * 3))
    assert together == alone * 3


def test_what_the_index_says_of_itself(searcher, demo_root) -> None:
    info = searcher.info()
    assert info["folder"] == str((demo_root / "images").resolve())
    assert info["engine"] == "spil_tiny_instant_test"
    assert (info["backend"], info["images"]) == ("exact", 12)
    assert info["regions"] == 12 * 19 and info["unreadable"] == []
    assert info["complete"] and info["calibrated"] and not info["adapted"]


def test_pictures_are_those_of_the_index_only(searcher) -> None:
    image_id, path = searcher.images()[0]
    expected = read_picture(searcher.image_path(image_id)).pixels
    np.testing.assert_array_equal(searcher.read_image(image_id), expected)
    assert searcher.image_path(image_id).as_posix().endswith(path)
    for other in (0, -1, 999):
        with pytest.raises(KeyError, match="no image"):
            searcher.image_path(other)


def test_refining_needs_adaptation(searcher, references) -> None:
    assert not searcher.can_refine
    with pytest.raises(RuntimeError, match="spil-d2 adapt"):
        searcher.refine(references[:1], [])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0, 0, 101, 50), "reaches outside: 0 <= x <= 100 and 0 <= y <= 80; .* 100x80 pixels"),
        ((-1, 0, 10, 10), "box -1,0,10,10 reaches outside"),
        ((10, 10, 10, 20), "box 10,10,10,20 is empty"),
        ((30, 10, 20, 20), "out of order"),
        ((0, 0, float("nan"), 5), "four numbers"),
        ((1, 2, 3), "four numbers"),
    ],
)
def test_a_bad_box_is_named_with_the_size_of_the_picture(box, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_box(box, 100, 80)
    if len(box) == 4:
        with pytest.raises(ValueError, match="100x80"):
            QueryImage(np.zeros((80, 100, 3), np.uint8), (box,))


def test_bad_queries_are_refused(searcher, references) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        QueryImage(np.zeros((80, 100, 3)), ((0, 0, 1, 1),))
    with pytest.raises(ValueError, match="needs a box"):
        QueryImage(np.zeros((80, 100, 3), np.uint8), ())
    with pytest.raises(ValueError, match="at least one picture"):
        searcher.search([], 3)
    with pytest.raises(ValueError, match="k >= 1"):
        searcher.search(references[:1], 0)
    with pytest.raises(ValueError, match="'median'"):
        searcher.search(references[:1], 3, combine="median")  # type: ignore[arg-type]
    with pytest.raises(UnreadablePictureError):
        searcher.query_image("missing.jpg")


def test_a_large_query_is_reduced_with_its_box(tmp_path) -> None:
    Image.new("RGB", (6000, 3000)).save(tmp_path / "large.jpg")
    query = read_query(tmp_path / "large.jpg", [(600, 300, 6000, 3000)])
    assert query.image.shape == (1500, 3000, 3)
    np.testing.assert_allclose(query.boxes, [(300, 150, 3000, 1500)])
    with pytest.raises(ValueError, match=r"large\.jpg: box .* 6000x3000"):
        read_query(tmp_path / "large.jpg", [(0, 0, 6001, 10)])


def test_an_index_that_is_none_says_how_to_make_one(tmp_path, instant) -> None:
    with pytest.raises(FileNotFoundError, match="spil-d2 index FOLDER"):
        Searcher.open(tmp_path)
    (tmp_path / "photos").mkdir()
    index_folder(tmp_path / "photos", tmp_path / "index", instant, progress=False)
    with pytest.raises(FileNotFoundError, match="no searchable picture"):
        Searcher.open(tmp_path / "index")


@pytest.mark.parametrize("name", ["engine.yaml", "manifest.json", "calibration.npz"])
def test_a_damaged_file_is_named(photos, tmp_path, instant, name) -> None:
    index_folder(photos, tmp_path / "index", instant, progress=False)
    (tmp_path / "index" / name).write_text("{ damaged")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        Searcher.open(tmp_path / "index")


def test_the_package_offers_it() -> None:
    assert spil_d2.Searcher is Searcher and spil_d2.QueryImage is QueryImage
    with pytest.raises(AttributeError, match="no attribute 'Seeker'"):
        spil_d2.Seeker  # noqa: B018
