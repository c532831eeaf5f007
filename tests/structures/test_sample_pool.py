"""The file of a sample pool: equal pools are equal files, and what is wrong in one is named."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spil_d2.structures import Candidate, QueryPool, SamplePool, Target

BOX = (1.0, 2.0, 3.0, 4.0)
SIZE, COUNTS = {"size": [4, 5]}, {"counts": "0d0"}


def make_pool(mask: dict | None = None) -> SamplePool:
    target = Target(BOX, 0.5, mask, (((0.0, 0.0, 1.0, 1.0), 0.25),))
    candidates = (Candidate(5, BOX, target), Candidate(6, BOX))
    return SamplePool(1, tuple(QueryPool(q, Target(BOX, 1.0), candidates) for q in (8, 3)))


def test_a_pool_is_a_mapping_in_the_order_of_its_queries() -> None:
    pool = make_pool()
    assert list(pool) == [8, 3]
    assert pool[3] is pool.queries[1]
    assert pool.num_targets == 2
    with pytest.raises(ValueError, match="^a query has two pools$"):
        SamplePool(1, (pool[8], pool[8]))


def test_equal_pools_are_equal_files_whenever_they_are_written(tmp_path) -> None:
    make_pool(SIZE | COUNTS).save(tmp_path / "a.gz")
    make_pool(COUNTS | SIZE).save(tmp_path / "b.gz")
    content = (tmp_path / "a.gz").read_bytes()
    assert content == (tmp_path / "b.gz").read_bytes()
    assert content[4:8] == bytes(4), "the time of a gzip header"


def load_error(path: Path, content: bytes) -> str:
    """Why a file is refused, after its name."""
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        SamplePool.load(path)
    start = f"{path} is not a readable sample pool: "
    assert str(raised.value).startswith(start)
    return str(raised.value).removeprefix(start)


def test_what_cannot_be_parsed_names_the_file_once(tmp_path) -> None:
    assert load_error(tmp_path / "pool.gz", b"text").startswith("cannot be read: Not a gzipped")
    assert load_error(tmp_path / "pool.gz", gzip.compress(b"{")).startswith(
        "cannot be read as JSON"
    )
    assert load_error(tmp_path / "pool.gz", gzip.compress(b"{}")) == "it lacks 'stage'"


def written(pool: SamplePool, folder: Path) -> dict:
    """What `save` writes of a pool."""
    pool.save(folder / "saved.gz")
    return json.loads(gzip.decompress((folder / "saved.gz").read_bytes()))


def set_box(data: dict, value: Any) -> None:
    data["queries"][0]["candidates"][0]["box"][2] = value


def set_image(data: dict, value: Any) -> None:
    data["queries"][0]["candidates"][1]["image_id"] = value


@pytest.mark.parametrize("change", [set_box, set_image])
def test_the_largest_numbers_are_taken(tmp_path, change: Callable[[dict, Any], None]) -> None:
    for value in (2**53, -(2**53)):
        data = written(make_pool(), tmp_path)
        change(data, value)
        (tmp_path / "pool.gz").write_bytes(gzip.compress(json.dumps(data).encode()))
        candidates = SamplePool.load(tmp_path / "pool.gz")[8].candidates
        assert value in (candidates[0].box[2], candidates[1].image_id)


NO_NUMBER = "query 8: {} is no finite number"
NO_ID = "query 8: {} is no integer that an id can be"
WRONG = [
    (set_box, 2**53 + 1, NO_NUMBER),
    (set_box, float("nan"), NO_NUMBER),
    (set_box, float("-inf"), NO_NUMBER),
    (set_box, True, NO_NUMBER),
    (set_box, "x", NO_NUMBER),
    (set_image, 2**53 + 1, NO_ID),
    (set_image, -(2**53) - 1, NO_ID),
    (set_image, True, NO_ID),
    (set_image, 3.0, NO_ID),
]


@pytest.mark.parametrize(("change", "value", "message"), WRONG)
def test_what_is_no_number_or_no_id_is_told_with_its_query(
    tmp_path, change: Callable[[dict, Any], None], value: Any, message: str
) -> None:
    data = written(make_pool(), tmp_path)
    change(data, value)
    told = load_error(tmp_path / "pool.gz", gzip.compress(json.dumps(data).encode()))
    assert told == message.format(repr(value))


def test_what_a_query_lacks_is_told(tmp_path) -> None:
    data = written(make_pool(), tmp_path)
    del data["queries"][1]["candidates"][0]["box"]
    told = load_error(tmp_path / "pool.gz", gzip.compress(json.dumps(data).encode()))
    assert told == "query 3: it lacks 'box'"
