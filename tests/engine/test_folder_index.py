"""An index of a folder: complete, incremental, and never hurt by a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spil_d2.engine import file_table, folder_index, segments
from spil_d2.engine.file_table import INDEXED, UNREADABLE, FileTable
from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.engine.folder_scan import scan_folder
from spil_d2.engine.index_directory import FolderIndex
from spil_d2.engine.parallel_index import WorkerDiedError
from spil_d2.utils import artifacts
from spil_d2.utils.artifacts import lock_output_dir


def contents(index_dir: Path) -> dict[str, tuple]:
    """Relative path -> displayed size, boxes and embeddings: what an index says of its pictures."""
    index = FolderIndex(index_dir)
    found = {}
    with index.open_regions() as regions:
        rows = index.files.rows(INDEXED)
        assert sorted(regions.image_ids.tolist()) == [row.id for row in rows]
        for row in rows:
            one = regions.regions_of(row.id)
            assert row.path not in found
            found[row.path] = ((row.width, row.height), one.boxes, one.embeddings)
    return found


def assert_same(first: dict[str, tuple], second: dict[str, tuple]) -> None:
    assert list(first) == list(second)
    for path, (size, boxes, embeddings) in first.items():
        assert second[path][0] == size
        np.testing.assert_allclose(second[path][1], boxes, rtol=1e-6)
        # The number of threads may change the last bit of a sum, and the mean is one of halves.
        np.testing.assert_allclose(second[path][2], embeddings, atol=5e-3)


def run(photos: Path, index: Path, settings: IndexSettings):
    return index_folder(photos, index, settings, progress=False)


@pytest.fixture
def no_calibration(monkeypatch):
    monkeypatch.setattr(folder_index._Run, "calibrate", lambda self: None)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Names of the pictures that are read."""
    names: list[str] = []
    read = segments.read_picture

    def note(path, *rest):
        names.append(Path(path).name)
        return read(path, *rest)

    monkeypatch.setattr(segments, "read_picture", note)
    return names


def test_only_what_changed_is_read_again(photos, tmp_path, instant, counted, no_calibration):
    index = tmp_path / "index"
    report = run(photos, index, instant)
    total = len(list(photos.rglob("*.jpg")))
    assert (report.added, report.removed, report.images) == (total, 0, total)
    assert len(counted) == total
    before = contents(index)

    counted.clear()
    assert run(photos, index, instant).added == 0 and counted == []

    names = sorted(path.name for path in photos.glob("*.jpg"))
    (photos / names[0]).unlink()
    os.utime(photos / names[1], ns=(1, 1))
    shutil.copy(photos / names[2], photos / "new.jpg")
    (photos / names[3]).rename(photos / "renamed.jpg")
    report = run(photos, index, instant)
    assert sorted(counted) == sorted([names[1], "new.jpg", "renamed.jpg"])
    assert (report.added, report.removed, report.images) == (3, 3, total)
    after = contents(index)
    assert names[0] not in after and names[3] not in after
    np.testing.assert_allclose(after["new.jpg"][1], before[names[2]][1])
    assert FolderIndex(index).manifest["images"] == total


def test_unreadable_files_are_listed_and_tried_again_when_they_change(
    photos, tmp_path, instant, counted, no_calibration
):
    (photos / "empty.png").touch()
    (photos / "half.jpg").write_bytes(next(photos.glob("*.jpg")).read_bytes()[:2000])
    (photos / "nowhere.jpg").symlink_to("missing")
    (photos / "notes.txt").write_text("no picture")
    report = run(photos, tmp_path / "index", instant)
    reasons = dict(report.unreadable)
    assert sorted(reasons) == ["empty.png", "half.jpg", "nowhere.jpg"]
    assert "empty" in reasons["empty.png"] and "truncated" in reasons["half.jpg"]
    listed = json.loads((tmp_path / "index/manifest.json").read_text())["unreadable"]
    assert {one["image"]: one["reason"] for one in listed} == reasons

    counted.clear()
    assert run(photos, tmp_path / "index", instant).unreadable == report.unreadable
    assert counted == []
    run(photos, tmp_path / "index", replace(instant, retry_unreadable=True))
    assert sorted(counted) == ["empty.png", "half.jpg"]
    Image.new("RGB", (40, 30)).save(photos / "empty.png")
    assert "empty.png" not in dict(run(photos, tmp_path / "index", instant).unreadable)


def test_boxes_are_in_pixels_of_the_displayed_picture(tmp_path, instant, no_calibration):
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (400, 100), "red").save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (6000, 3000), "red").save(folder / "large.jpg")
    Image.new("RGB", (1, 1), "red").save(folder / "point.png")
    run(folder, tmp_path / "index", instant)
    found = contents(tmp_path / "index")
    for name, size in (("turned.jpg", (100, 400)), ("large.jpg", (6000, 3000))):
        assert found[name][0] == size
        np.testing.assert_allclose(found[name][1].max(axis=0)[2:], size, rtol=1e-5)
    assert found["point.png"][0] == (1, 1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_make_the_same_index(photos, tmp_path, instant, no_calibration, num_workers):
    run(photos, tmp_path / "here", instant)
    run(photos, tmp_path / "there", replace(instant, num_workers=num_workers))
    assert_same(contents(tmp_path / "here"), contents(tmp_path / "there"))


@pytest.mark.timeout(600)
def test_a_worker_killed_in_the_middle_costs_its_segment_only(
    photos, tmp_path, instant, no_calibration
):
    run(photos, tmp_path / "here", instant)
    index, killed = tmp_path / "there", []

    def kill_one() -> None:
        while not killed:
            if list(index.glob("segments/*.started")):
                for process in multiprocessing.active_children():
                    killed.append(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    return
            time.sleep(0.001)

    thread = threading.Thread(target=kill_one)
    thread.start()
    report = run(photos, index, replace(instant, num_workers=2))
    thread.join()
    assert killed and report.unreadable == ()
    assert_same(contents(tmp_path / "here"), contents(index))
    assert list((index / "segments").iterdir()) == []


def test_a_picture_that_ends_processes_is_found_out(
    photos, tmp_path, instant, no_calibration, monkeypatch
):
    """Instead of processes, a stand-in that dies of one picture."""
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    killer = names[5]

    def mortal(cfg, function, jobs, num_workers):
        engine = folder_index.build_search_engine(cfg)
        for job in jobs:
            if killer in [path for _, path in job.files]:
                marker = job.directory.with_name(job.directory.name + segments.STARTED)
                marker.write_text(json.dumps(job.files))
                raise WorkerDiedError("died")
            yield function(engine, job)

    monkeypatch.setattr(folder_index, "map_with_engine", mortal)
    report = run(photos, tmp_path / "index", replace(instant, num_workers=2))
    assert [path for path, _ in report.unreadable] == [killer]
    assert "ended the process" in report.unreadable[0][1]
    assert list(contents(tmp_path / "index")) == [name for name in names if name != killer]


def test_workers_that_die_at_once_are_an_error(photos, tmp_path, instant, monkeypatch):
    def dead(*_):
        raise WorkerDiedError("died")
        yield

    monkeypatch.setattr(folder_index, "map_with_engine", dead)
    with pytest.raises(WorkerDiedError):
        run(photos, tmp_path / "index", replace(instant, num_workers=2))


@pytest.mark.parametrize("point", ["make_segment", "read_outcomes", "finish", "rmtree"])
def test_a_run_killed_anywhere_goes_on(
    photos, tmp_path, instant, no_calibration, monkeypatch, point
):
    """Killed in its second segment: before it is made, and around each step of its commit."""
    run(photos, tmp_path / "undisturbed", instant)
    owner = {"finish": FileTable, "rmtree": shutil}.get(point, folder_index)
    original, calls = getattr(owner, point), []

    def mortal(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, point, mortal)
        with pytest.raises(KeyboardInterrupt):
            run(photos, tmp_path / "index", instant)
    assert not FolderIndex(tmp_path / "index").manifest["is_complete"]
    run(photos, tmp_path / "index", instant)
    assert_same(contents(tmp_path / "undisturbed"), contents(tmp_path / "index"))
    assert list((tmp_path / "index/segments").iterdir()) == []


def test_what_a_killed_run_was_about_to_publish_or_remove_is_no_segment(
    photos, tmp_path, instant, no_calibration
):
    run(photos, tmp_path / "index", instant)
    before = contents(tmp_path / "index")
    mark = artifacts._host_mark() + "0000"
    hidden = tmp_path / "index/segments" / f".tmp-000000001-4000000-{mark}12345678"
    unnamed = tmp_path / "index/regions/segments/000001-01234567"
    for folder in (hidden, unnamed):
        folder.mkdir()
        (folder / "manifest.json").write_text('{"schema_version": 1, "outcomes": [[1, 1, 1, ""]]}')
    run(photos, tmp_path / "index", instant)
    assert not hidden.exists() and not unnamed.exists()
    assert_same(before, contents(tmp_path / "index"))


def test_a_file_that_changes_while_a_run_is_dead_is_not_doubled(
    photos, tmp_path, instant, no_calibration, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(FileTable, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run(photos, tmp_path / "index", instant)
    for path in photos.rglob("*.jpg"):
        os.utime(path, ns=(5, 5))
    report = run(photos, tmp_path / "index", instant)
    assert report.images == len(list(photos.rglob("*.jpg")))
    contents(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "dasr", "config_file": None}, "the engine spil_.*_test, and dasr is asked for"),
        ({"backend": "faiss"}, "the backend exact, and faiss is asked for"),
        (
            {"config_file": None, "opts": ("SEARCH.LONGER_SIDE", "64")},
            "and SEARCH.LONGER_SIDE 64 is asked for",
        ),
    ],
)
def test_another_engine_needs_another_index(demo_root, demo_index, instant, change, message):
    with pytest.raises(ValueError, match=message):
        index_folder(demo_root / "images", demo_index, replace(instant, **change))


def test_another_folder_needs_another_index_unless_it_was_moved(
    photos, tmp_path, instant, counted, no_calibration
):
    run(photos, tmp_path / "index", instant)
    photos.rename(tmp_path / "elsewhere")
    counted.clear()
    with pytest.raises(ValueError, match="is the index of .*photos, not of .*elsewhere.*--moved"):
        run(tmp_path / "elsewhere", tmp_path / "index", instant)
    run(tmp_path / "elsewhere", tmp_path / "index", replace(instant, moved=True))
    assert counted == [] and FolderIndex(tmp_path / "index").folder == tmp_path / "elsewhere"


def test_two_runs_do_not_write_at_once(photos, tmp_path, instant):
    with lock_output_dir(tmp_path / "index"), pytest.raises(RuntimeError, match="in use"):
        run(photos, tmp_path / "index", instant)


def test_a_folder_of_other_things_is_not_written_to(photos, tmp_path, instant):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("")
    with pytest.raises(ValueError, match="holds other files"):
        run(photos, tmp_path / "thesis", instant)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        run(tmp_path / "nowhere", tmp_path / "index", instant)


@pytest.mark.parametrize("bad", [{"backend": "oracle"}, {"num_workers": -2}, {"segment_images": 0}])
def test_settings_are_checked(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        IndexSettings(**bad)


def test_an_unknown_engine_lists_the_known_ones(photos, tmp_path):
    with pytest.raises(ValueError, match="there is no engine 'Oracle'.*best.*dasr.*tiny"):
        run(photos, tmp_path / "index", IndexSettings(engine="Oracle"))


def test_a_folder_without_pictures_has_an_empty_index(tmp_path, instant):
    (tmp_path / "photos").mkdir()
    assert run(tmp_path / "photos", tmp_path / "index", instant).images == 0


def test_the_index_may_lie_in_the_folder(photos, instant, no_calibration):
    first = run(photos, photos / "index", instant)
    (photos / "index" / "thumbnail.jpg").write_bytes(b"")
    assert run(photos, photos / "index", instant).images == first.images


def test_an_engine_that_fails_on_a_picture_costs_that_picture(
    photos, tmp_path, instant, no_calibration, monkeypatch
):
    Image.new("RGB", (7, 5)).save(photos / "odd.png")
    build = folder_index.build_search_engine

    def fragile(cfg):
        engine = build(cfg)
        regions = engine.regions

        def checked(images):
            if any(image.shape == (5, 7, 3) for image in images):
                raise RuntimeError("odd sides")
            return regions(images)

        engine.regions = checked
        return engine

    monkeypatch.setattr(folder_index, "build_search_engine", fragile)
    report = run(photos, tmp_path / "index", instant)
    assert report.unreadable == (("odd.png", "the engine fails on it: odd sides"),)
    assert report.images == len(list(photos.rglob("*.jpg")))


def test_scanning_follows_links_once_and_leaves_out_what_is_no_picture(tmp_path):
    root = tmp_path / "root"
    (root / "b" / "c").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    for path in ("z.jpg", "b/Ünï 写真.PNG", "b/c/d.webp", "b/e.txt", ".hidden.jpg"):
        (root / path).write_bytes(b"x")
    (outside / "far.jpg").write_bytes(b"x")
    (root / "a_loop").symlink_to(root)
    (root / "link").symlink_to(outside)
    (root / "second_link").symlink_to(outside)
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "folder.jpg").mkdir()
    with open(os.fsencode(root) + b"/bad\xff.jpg", "wb") as file:
        file.write(b"x")
    found = {one.path: one.error for one in scan_folder(root)}
    assert [path for path, error in found.items() if not error] == [
        "z.jpg",
        "b/Ünï 写真.PNG",
        "b/c/d.webp",
        "link/far.jpg",
    ]
    assert found["self.jpg"] == "a broken link"
    assert "UTF-8" in found["bad\\xff.jpg"]
    assert len(found) == 6


def test_the_table_tells_files_apart(tmp_path):
    table = FileTable(tmp_path / "files.sqlite")
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "b.jpg").write_bytes(b"")
    table.update(scan_folder(tmp_path))
    assert [row.path for row in table.rows("new")] == ["a.jpg", "b.jpg"]
    assert table.by_path("a.jpg").id == 1 and table.by_path("c.jpg") is None
    assert table.count(UNREADABLE) == 0
    with pytest.raises(KeyError, match="no image 9"):
        table.by_id(9)
    assert [row.path for row in table.by_ids([2, 1, 2])] == ["b.jpg", "a.jpg", "b.jpg"]
    with pytest.raises(KeyError, match="no image 7"):
        table.by_ids([1, 7])


def test_many_rows_are_looked_up_in_parts(tmp_path, monkeypatch):
    for number in range(7):
        (tmp_path / f"{number}.jpg").write_bytes(b"1")
    table = FileTable(tmp_path / "files.sqlite")
    table.update(scan_folder(tmp_path))
    monkeypatch.setattr(file_table, "_IDS_AT_ONCE", 2)
    wanted = [5, 1, 7, 2, 3]
    assert [row.id for row in table.by_ids(wanted)] == wanted
