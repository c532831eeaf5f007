"""Entries on disk: what is found again, what makes room, and what damage does."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from spil_d2.utils import array_cache
from spil_d2.utils.array_cache import ArrayCache

ENTRY_BYTES = 4096 + 64


def key(number: int) -> str:
    return f"{number:016x}"


def entry(number: int) -> dict[str, np.ndarray]:
    """4096 bytes and a line of JSON that fills the 64 before them."""
    return {"a": np.full(2048, number, np.float16)}


def path_of(folder: Path, number: int) -> Path:
    return folder / f"{key(number)}.arrays"


def total(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.iterdir())


def warnings_of(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def test_what_was_put_is_mapped(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.normal(size=(5, 7, 3)).astype(np.float16),
        "one": np.array([7], np.int64),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "none": np.zeros((0, 4), np.uint8),
    }
    cache = ArrayCache(tmp_path / "new" / "folder", 10**6)
    assert key(1) not in cache and cache.get(key(1)) is None
    cache.put(key(1), arrays)
    assert key(1) in cache
    again = ArrayCache(tmp_path / "new" / "folder", 10**6)
    found = again.get(key(1))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].size or found[name].ctypes.data % 64 == 0
    # Neither a change in memory nor the removal of the file reaches the other.
    found["half"][:] = 0
    np.testing.assert_array_equal(again.get(key(1))["half"], arrays["half"])
    kept = again.get(key(1))["half"]
    path_of(tmp_path / "new" / "folder", 1).unlink()
    np.testing.assert_array_equal(kept, arrays["half"])


def test_the_least_recently_used_makes_room_across_restarts(tmp_path: Path) -> None:
    limit = 5 * ENTRY_BYTES + 100
    rng = np.random.default_rng(0)
    cache = ArrayCache(tmp_path, limit)
    expected: OrderedDict[int, None] = OrderedDict()
    for step in range(120):
        if step % 17 == 0:
            cache = ArrayCache(tmp_path, limit)
        number = int(rng.integers(0, 9))
        found = cache.get(key(number))
        assert (found is not None) == (number in expected)
        if found is None:
            cache.put(key(number), entry(number))
            if len(expected) == 5:
                expected.popitem(last=False)
            expected[number] = None
        else:
            assert found["a"][0] == number
            expected.move_to_end(number)
        # The clock of files is too coarse for a test.
        os.utime(path_of(tmp_path, number), ns=(step * 10**9, step * 10**9))
        assert total(tmp_path) <= limit
    assert {one.name for one in tmp_path.iterdir()} == {
        path_of(tmp_path, number).name for number in expected
    }


def test_many_small_entries_stay_below_the_limit_and_use_it(tmp_path: Path) -> None:
    limit = 40 * ENTRY_BYTES
    cache = ArrayCache(tmp_path, limit)
    sizes = []
    for number in range(100):
        cache.put(key(number), entry(number))
        sizes.append(total(tmp_path))
    assert max(sizes) <= limit and min(sizes[40:]) >= limit * 14 // 16
    assert all(key(number) in cache for number in range(97, 100))


def _cut(path: Path) -> None:
    os.truncate(path, 3000)


def _cut_early(path: Path) -> None:
    os.truncate(path, 5)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2000] ^= 4
    path.write_bytes(content)


def _unwritten(path: Path) -> None:
    path.write_bytes(bytes(ENTRY_BYTES))


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


@pytest.mark.parametrize("damage", [_cut, _cut_early, _empty, _flip, _unwritten, _longer])
def test_a_damaged_entry_is_none_and_is_replaced(tmp_path: Path, damage, caplog) -> None:
    cache = ArrayCache(tmp_path, 10**6)
    cache.put(key(1), entry(1))
    damage(path_of(tmp_path, 1))
    assert cache.get(key(1)) is None
    (message,) = warnings_of(caplog)
    assert str(path_of(tmp_path, 1)) in message and "made again" in message
    cache.put(key(1), entry(1))
    np.testing.assert_array_equal(cache.get(key(1))["a"], entry(1)["a"])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_ends_the_writing_with_one_warning(tmp_path: Path, monkeypatch, caplog) -> None:
    cache = ArrayCache(tmp_path, 10**6)
    cache.put(key(1), entry(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_cache.os, "replace", full)
    for number in (2, 3, 4):
        cache.put(key(number), entry(number))
    (message,) = warnings_of(caplog)
    assert str(path_of(tmp_path, 2)) in message and "No space left" in message
    assert "CACHE.FEATURES" in message
    assert [one.name for one in tmp_path.iterdir()] == [path_of(tmp_path, 1).name]
    assert cache.get(key(1)) is not None and cache.get(key(2)) is None


def test_a_folder_that_cannot_be_is_one_warning(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("")
    cache = ArrayCache(tmp_path / "file" / "below", 10**6)
    for number in (1, 2):
        cache.put(key(number), entry(number))
    (message,) = warnings_of(caplog)
    assert "below" in message and key(1) in message


def test_a_time_that_cannot_be_set_ends_the_writing_only(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    cache = ArrayCache(tmp_path, 10**6)
    cache.put(key(1), entry(1))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "not the owner")

    monkeypatch.setattr(array_cache.os, "utime", refused)
    assert all(cache.get(key(1)) is not None for _ in range(2))
    assert len(warnings_of(caplog)) == 1


def test_an_entry_above_the_limit_is_named(tmp_path: Path, caplog) -> None:
    cache = ArrayCache(tmp_path, 1000)
    cache.put(key(1), entry(1))
    assert not list(tmp_path.iterdir())
    (message,) = warnings_of(caplog)
    assert "exceed the limit of 1000" in message
    with pytest.raises(ValueError, match="at most 0 bytes"):
        ArrayCache(tmp_path, 0)


def test_only_own_files_go_and_a_write_in_progress_stays(tmp_path: Path) -> None:
    foreign = ["notes.txt", "film.mp4.part", "0123.arrays"]
    part, abandoned = (f"{key(8)}.arrays.{part}.part" for part in ("0000000a", "0000000b"))
    for name in [*foreign, part, abandoned]:
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1, 1))
    now = time.time()
    os.utime(tmp_path / part, (now - 60, now - 60))
    cache = ArrayCache(tmp_path, 2 * ENTRY_BYTES)
    for number in range(5):
        cache.put(key(number), entry(number))
    names = {one.name for one in tmp_path.iterdir()}
    assert names >= {*foreign, part} and abandoned not in names
    assert cache.get(key(4)) is not None


def test_several_writers_share_a_folder(tmp_path: Path) -> None:
    """Each has a cache of its own, as processes have, and knows the others by the folder only."""

    def work(seed: int) -> Iterator[bool]:
        rng = np.random.default_rng(seed)
        cache = ArrayCache(tmp_path, 6 * ENTRY_BYTES)
        for number in rng.integers(0, 12, 150).tolist():
            found = cache.get(key(number))
            if found is None:
                cache.put(key(number), entry(number))
            yield found is None or bool((found["a"] == number).all())

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: list(work(seed)), range(4)))
    assert all(all(one) for one in results)
    assert total(tmp_path) <= (6 + 3) * ENTRY_BYTES
    assert all(one.suffix == ".arrays" for one in tmp_path.iterdir())
