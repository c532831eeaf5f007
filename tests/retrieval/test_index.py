"""One suite for all backends of the index of regions; the reference is a loop in plain numpy."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import (
    RegionIndex,
    open_region_index,
)

from .index_cases import (
    SIZE,
    add,
    check,
    create,
    make_gallery,
    make_queries,
    make_regions,
    mean_of,
    unit,
)


def test_search_is_the_naive_loop(index: RegionIndex, is_centred: bool) -> None:
    gallery, queries = make_gallery(40), make_queries(3)
    mean = mean_of(gallery) if is_centred else None
    ids = list(gallery)
    index.add(ids[:15], [gallery[i] for i in ids[:15]])
    index.add(ids[15:], [gallery[i] for i in ids[15:]])
    for _ in range(2):  # in memory, and persisted
        assert len(index) == 40 and index.dimension == SIZE
        assert index.num_regions == sum(len(one.boxes) for one in gallery.values())
        assert sorted(index.image_ids.tolist()) == sorted(ids)
        lists = index.search([10, 11, 12], queries, 12)
        for query_id, query in zip((10, 11, 12), queries):
            check(lists[query_id], gallery, query, 12, mean)
        index.persist()


def test_filters_are_the_naive_loop(index: RegionIndex, is_centred: bool) -> None:
    gallery, queries = make_gallery(40), make_queries(3)
    mean = mean_of(gallery) if is_centred else None
    add(index, gallery)
    excluded = [{1, 2, 3, 999}, set(), set(range(30))]
    for _ in range(2):
        for allowed in (None, range(0, 40, 2), [5, 6, 7, 1234], []):
            lists = index.search([0, 1, 2], queries, 10, excluded, allowed)
            for place, (query, skip) in enumerate(zip(queries, excluded)):
                may = set(gallery) if allowed is None else set(gallery) & set(allowed)
                left = {i: one for i, one in gallery.items() if i in may - skip}
                check(lists[place], left, query, 10, mean)
        index.persist()


def test_images_come_and_go(index: RegionIndex, is_centred: bool, tmp_path: Path) -> None:
    gallery, queries = make_gallery(60), make_queries(2)
    add(index, gallery)
    index.persist()
    mean = mean_of(gallery) if is_centred else None
    for step in range(6):
        new = make_gallery(5, 100 + 5 * step, seed=step)
        gone = list(gallery)[:3]
        index.delete(gone)
        add(index, new)
        gallery = {i: one for i, one in (gallery | new).items() if i not in gone}
        lists = index.search([0, 1], queries, 100)
        index.persist()
        with_disk = index.search([0, 1], queries, 100)
        for found in (lists, with_disk):
            check(found[0], gallery, queries[0], 100, mean)
            check(found[1], gallery, queries[1], 100, mean)
    back = make_regions(np.random.default_rng(7), 2)
    index.delete([100])
    index.add([100], [back])
    index.compact()
    gallery[100] = back
    mean = mean_of(gallery) if is_centred else None
    check(index.search([0], queries[:1], 9)[0], gallery, queries[0], 9, mean)
    assert len(list((tmp_path / "index" / "segments").iterdir())) == 1


def test_reopened_it_is_the_same(backend: str, is_centred: bool, tmp_path: Path) -> None:
    gallery, queries = make_gallery(30), make_queries(2)
    with create(backend, tmp_path / "a", is_centred) as index:
        add(index, gallery)
        index.persist()
        index.delete([3, 4])
        index.persist()
        before = index.search([0, 1], queries, 30)
    (tmp_path / "a").rename(tmp_path / "b")
    with open_region_index(tmp_path / "b") as again:
        assert again.backend == backend and again.is_centred == is_centred
        assert len(again) == 28 and 3 not in again.image_ids
        after = again.search([0, 1], queries, 30)
    for place in (0, 1):
        np.testing.assert_array_equal(before[place].image_ids, after[place].image_ids)
        np.testing.assert_array_equal(before[place].similarities, after[place].similarities)
        np.testing.assert_array_equal(before[place].boxes, after[place].boxes)


def test_an_index_in_memory_is_saved(backend: str, is_centred: bool, tmp_path: Path) -> None:
    gallery, queries = make_gallery(20), make_queries(1)
    index = create(backend, None, is_centred)
    add(index, gallery)
    with pytest.raises(ValueError, match="no directory"):
        index.persist()
    index.save(tmp_path)
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        index.save(tmp_path)
    mean = mean_of(gallery) if is_centred else None
    with open_region_index(tmp_path) as saved:
        check(saved.search([0], queries, 20)[0], gallery, queries[0], 20, mean)
        saved.save(tmp_path / "copy")
        with open_region_index(tmp_path / "copy") as copy:
            check(copy.search([0], queries, 20)[0], gallery, queries[0], 20, mean)


def test_regions_are_given_back(index: RegionIndex) -> None:
    gallery = make_gallery(20)
    add(index, gallery)
    for _ in range(2):
        for image_id, regions in gallery.items():
            found = index.regions_of(image_id)
            np.testing.assert_array_equal(found.boxes, regions.boxes)
            np.testing.assert_array_equal(found.saliency, regions.saliency)
            np.testing.assert_allclose(found.embeddings, regions.embeddings, atol=1e-3)
        index.persist()
    index.delete([5])
    with pytest.raises(KeyError, match="image 5 is not among the 19"):
        index.regions_of(5)


def test_compare_is_what_search_computes(index: RegionIndex) -> None:
    gallery, queries = make_gallery(20), make_queries(2)
    add(index, gallery)
    for _ in range(2):
        lists = index.search([0, 1], queries, 20)
        for image_id, regions in gallery.items():
            values = index.compare(queries, regions.embeddings).max(axis=1)
            for place in (0, 1):
                at = lists[place].image_ids.tolist().index(image_id)
                assert lists[place].similarities[at] == pytest.approx(values[place], abs=1e-3)
        index.persist()


def test_an_image_with_many_regions_does_not_hide_others(backend: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    query = make_queries(1)
    crowd = unit(query + rng.normal(size=(3000, SIZE)) * 0.01).astype(np.float32)
    boxes = np.arange(12000, dtype=np.float32).reshape(-1, 4)
    gallery = {50: Regions(boxes, boxes[:, 0], crowd)} | make_gallery(40)
    with create(backend, tmp_path / "index") as index:
        add(index, gallery)
        index.persist()
        found = index.search([0], query, 30)[0]
        assert found.image_ids[0] == 50 and len(found) == 30
        del gallery[50]
        check(index.search([0], query, 30, [{50}])[0], gallery, query[0], 30)
        index.delete([50])
        check(index.search([0], query, 30)[0], gallery, query[0], 30)


def test_equal_similarities_are_ordered_by_image_id(backend: str, tmp_path: Path) -> None:
    same = make_regions(np.random.default_rng(0), 2)
    ids = [9, 3, 7, 1, 8, 2, 30, 12, 11, 10]
    with create(backend, tmp_path / "index") as index:
        for part in (ids[:4], ids[4:]):
            index.add(part, [same] * len(part))
            index.persist()
        found = index.search([0], same.embeddings[1:], 3)[0]
        assert found.image_ids.tolist() == [1, 2, 3]
        np.testing.assert_array_equal(found.boxes, np.repeat(same.boxes[1:], 3, axis=0))


def test_two_readers_and_a_writer(backend: str, tmp_path: Path) -> None:
    gallery, queries = make_gallery(30), make_queries(1)
    with create(backend, tmp_path / "index") as writer:
        add(writer, gallery)
        writer.persist()
        one, two = (open_region_index(tmp_path / "index") for _ in range(2))
        with one, two:
            errors: list[BaseException] = []

            def read(reader: RegionIndex) -> None:
                try:
                    for _ in range(5):
                        check(reader.search([0], queries, 30)[0], gallery, queries[0], 30)
                except AssertionError as error:
                    errors.append(error)

            threads = [threading.Thread(target=read, args=(r,)) for r in (one, two, one)]
            for thread in threads:
                thread.start()
            writer.add([1000], [make_regions(np.random.default_rng(3), 2)])
            writer.persist()
            for thread in threads:
                thread.join()
            assert not errors
            assert len(one) == 30 and len(writer) == 31
            one.delete([int(one.image_ids[0])])
            with pytest.raises(RuntimeError, match="generation 2.*open it again"):
                one.persist()
        with open_region_index(tmp_path / "index") as late:
            assert len(late) == 31


def test_adding_rewrites_only_small_segments(index: RegionIndex, tmp_path: Path) -> None:
    folder = tmp_path / "index" / "segments"
    add(index, make_gallery(200))
    index.persist()
    (large,) = folder.iterdir()
    for step in range(8):
        add(index, make_gallery(1, 1000 + step, seed=step))
        index.persist()
        names = list(folder.iterdir())
        assert large in names and len(names) <= 5
    index.delete(range(60))
    index.persist()
    assert large not in folder.iterdir() and len(index) == 148


def test_wrong_input_is_named(index: RegionIndex) -> None:
    with pytest.raises(ValueError, match="search of 0 images for the best 3"):
        index.search([1], np.ones((1, SIZE), np.float32), 3)
    gallery = make_gallery(10)
    add(index, gallery)
    rng = np.random.default_rng(0)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"twice.*\[4\]"):
            index.add([4], [make_regions(rng, 1)])
        with pytest.raises(ValueError, match="twice"):
            index.add([77, 77], [make_regions(rng, 1)] * 2)
        with pytest.raises(ValueError, match="image 77.*dimension 8"):
            index.add([77], [make_regions(rng, 0)])
        with pytest.raises(ValueError, match=r"image 77.*\(2, 5\).*dimension 8"):
            index.add([77], [make_regions(rng, 2, size=5)])
        with pytest.raises(ValueError, match="2 image ids for 1 sets"):
            index.add([77, 78], [make_regions(rng, 1)])
        bad = make_regions(rng, 1)
        bad.embeddings[0, 0] = 1e6
        with pytest.raises(ValueError, match="image 77.*1000000"):
            index.add([77], [bad])
        with pytest.raises(ValueError, match=r"1 images to delete.*\[77\]"):
            index.delete([4, 77])
        with pytest.raises(ValueError, match=r"query embeddings are \(1, 5\), not \(1, 8\)"):
            index.search([1], np.ones((1, 5), np.float32), 3)
        with pytest.raises(ValueError, match="10 images for the best 0"):
            index.search([1], np.ones((1, SIZE), np.float32), 0)
        with pytest.raises(ValueError, match="2 sets of excluded images for 1 queries"):
            index.search([1], np.ones((1, SIZE), np.float32), 3, [[], []])
        assert len(index) == 10
        index.persist()


def test_an_emptied_index_fills_again(index: RegionIndex, is_centred: bool) -> None:
    add(index, make_gallery(5))
    index.persist()
    index.delete(range(5))
    index.persist()
    assert len(index) == 0 and index.num_regions == 0
    gallery, queries = make_gallery(6, seed=5), make_queries(1)
    add(index, gallery)
    index.persist()
    mean = mean_of(gallery) if is_centred else None
    check(index.search([0], queries, 6)[0], gallery, queries[0], 6, mean)


def test_the_mean_follows_an_index_that_doubles(backend: str, tmp_path: Path) -> None:
    first, more, queries = make_gallery(10), make_gallery(4, 50), make_queries(1)
    many = make_gallery(40, 100, seed=9)
    with create(backend, tmp_path / "index", is_centred=True) as index:
        add(index, first)
        index.persist()
        add(index, more)
        index.persist()
        found = index.search([0], queries, 99)[0]
        check(found, first | more, queries[0], 99, mean_of(first))
        add(index, many)
        index.persist()
        gallery = first | more | many
        check(index.search([0], queries, 99)[0], gallery, queries[0], 99, mean_of(gallery))
        np.testing.assert_allclose(index.regions_of(3).embeddings, first[3].embeddings, atol=2e-3)
