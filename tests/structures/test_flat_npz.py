"""The file that rank lists and region lists share: any columns, and what is damaged in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from spil_d2.structures import RankList, RankLists, RegionList, RegionLists
from spil_d2.structures.flat_npz import Column, check_columns, load_lists, save_lists
from spil_d2.utils.reading import UnreadableFileError

COLUMNS = (
    Column("weights", np.float32, is_optional=True),
    Column("image_ids", np.int64),
    Column("boxes", np.float32, width=4),
)


@dataclass(frozen=True)
class Ids:
    """A list whose optional column is the first."""

    query_id: int
    image_ids: np.ndarray
    boxes: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.image_ids)


def make_ids(query_id: int, weights: np.ndarray | None = None) -> Ids:
    return Ids(query_id, np.array([3, 4]), np.ones((2, 4)), weights)


def test_columns_after_one_that_is_not_there_are_checked_too() -> None:
    check_columns(make_ids(1), COLUMNS, "list")
    wrong = Ids(1, np.array([3, 4]), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^list of query 1: boxes is \(2, 3\), not \(2, 4\)$"):
        check_columns(wrong, COLUMNS, "list")


def test_columns_after_one_that_not_all_lists_have_are_written_too(tmp_path) -> None:
    some = (make_ids(1), make_ids(2, np.ones(2)))
    save_lists(tmp_path / "lists.npz", some, COLUMNS)
    found = load_lists(tmp_path / "lists.npz", Ids, COLUMNS, "id")
    for before, after in zip(some, found, strict=True):
        assert after.weights is None
        assert after.image_ids.tolist() == before.image_ids.tolist()
        assert (after.boxes.dtype, after.boxes.shape) == (np.float32, (2, 4))


def save_changed(path: Path, **change: np.ndarray) -> None:
    """Two lists of query 5 with two boxes and of query 6 with one, some arrays changed."""
    arrays = {
        "query_ids": np.array([5, 6]),
        "offsets": np.array([0, 2, 3]),
        "image_ids": np.array([1, 2, 1]),
        "boxes": np.zeros((3, 4), np.float32),
        "similarities": np.array([0.5, 0.25, 0.75], np.float32),
    }
    np.savez(path, **{**arrays, **change})


def test_small_integers_are_taken(tmp_path) -> None:
    names = ("query_ids", "offsets", "image_ids")
    values = ([5, 6], [0, 2, 3], [1, 2, 1])
    small = {name: np.array(one, np.int8) for name, one in zip(names, values, strict=True)}
    save_changed(tmp_path / "lists.npz", **small)
    lists = RankLists.load(tmp_path / "lists.npz")
    assert {q: one.image_ids.tolist() for q, one in lists.items()} == {5: [1, 2], 6: [1]}
    assert lists[5].image_ids.dtype == np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_ids": np.array([5.0, 6.0])}, r"query_ids is float64 \(2,\), must be integers"),
        ({"offsets": np.array([0.0, 2, 3])}, r"offsets is float64 \(3,\), must be integers \(3,\)"),
        ({"offsets": np.array([0, 2, 3, 3])}, r"offsets is int64 \(4,\), must be integers \(3,\)"),
        ({"offsets": np.array([1, 2, 3])}, r"offsets must rise from 0, found \[1, 2, 3\]"),
        ({"offsets": np.array([0, 4, 3])}, r"offsets must rise from 0, found \[0, 4, 3\]"),
        (
            {"query_ids": np.arange(10), "offsets": np.arange(11)[::-1]},
            r"offsets must rise from 0, found \[10, 9, 8, 7, 6, 5, 4, 3, 2\]",
        ),
        ({"offsets": np.array([0, 1, 2])}, r"image_ids is int64 \(3,\), must be integers \(2,\)"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change: dict, message: str) -> None:
    save_changed(tmp_path / "lists.npz", **change)
    whole = rf"lists\.npz is not a readable file of rank lists: {message}"
    with pytest.raises(ValueError, match=whole):
        RankLists.load(tmp_path / "lists.npz")


@pytest.mark.parametrize(
    ("kind", "what"), [(RankLists, "rank lists"), (RegionLists, "region lists")]
)
def test_a_file_with_two_lists_of_a_query_is_named(tmp_path, kind: type, what: str) -> None:
    path = tmp_path / "lists.npz"
    save_changed(path, query_ids=np.array([5, 5]))
    with pytest.raises(UnreadableFileError) as raised:
        kind.load(path)
    told = f"is no file of {what}: a query has two {what}"
    assert str(raised.value) == f"{path} {told}"


@pytest.mark.parametrize(
    ("kind", "many", "what"),
    [(RankList, RankLists, "rank list"), (RegionList, RegionLists, "region list")],
)
def test_shapes_and_ids_are_checked_when_a_list_is_made(kind, many, what: str) -> None:
    ids, zeros = np.array([1, 2, 3]), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=rf"^{what} of query 5: boxes is \(2, 4\), not \(3, 4\)$"):
        kind(5, ids, np.zeros((2, 4), np.float32), zeros)
    for unsorted in ([0.3, 0.1, 0.2], [0.1, 0.3, 0.2]):
        with pytest.raises(ValueError, match=f"^{what} of query 5 is not sorted by similarity"):
            kind(5, ids, np.zeros((3, 4), np.float32), np.array(unsorted, np.float32))
    one = kind(5, ids, np.zeros((3, 4), np.float32), zeros)
    with pytest.raises(ValueError, match=f"^a query has two {what}s$"):
        many((one, one))
