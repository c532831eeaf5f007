"""Reading predictions: both formats say the same, and what is wrong names its record."""

from __future__ import annotations

import json
import pickle
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spil_d2.evaluation.ins_evaluator import judge
from spil_d2.evaluation.ins_predictions import PredictionError, Predictions, read_predictions
from spil_d2.evaluation.ins_protocol import PRESETS, Protocol, QueryTruth, build_protocol

B = (0.0, 0.0, 50.0, 50.0)
RECORDS = [
    {"query": "1_0", "image": "c2b.jpg", "bbox": [1, 2, 3.5, 4], "score": 0.25},
    {"query": "0_0", "image": "c1a", "bbox": [0, 0, 0, 0], "score": 1},
    {"query": "1_0", "image": "c1a", "bbox": [5, 6, 7, 8], "score": -0.5},
]


@pytest.fixture
def protocol() -> Protocol:
    truths = [QueryTruth(f"{i}_0", i, ("c1a",), 50.0, (("c2b", B),)) for i in range(2)]
    skipped = QueryTruth("2_0", 2, ("c1a",), 50.0, ())
    return build_protocol(PRESETS["ins_prw"], {"c1a": 0, "c2b": 1, "c3c": 2}, [*truths, skipped])


def write_json(path: Path, records: object) -> Path:
    path.write_text(json.dumps(records))
    return path


def npz_arrays(records: list[dict]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name in ("query", "image"):
        names, index = np.unique([record[name] for record in records], return_inverse=True)
        arrays[name], arrays[f"{name}_names"] = index, names
    arrays["bbox"] = np.array([record["bbox"] for record in records], np.float32)
    arrays["score"] = np.array([record["score"] for record in records], np.float32)
    return arrays


def write_npz(path: Path, **arrays: object) -> Path:
    with open(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return path


def check(found: Predictions) -> None:
    assert len(found) == 3
    one = found.of("1_0")
    assert one.images.tolist() == [1, 0]
    assert one.boxes.tolist() == [[1, 2, 3.5, 4], [5, 6, 7, 8]]
    assert one.scores.tolist() == [0.25, -0.5]
    assert found.of("0_0").images.tolist() == [0]
    assert len(found.of("2_0").images) == 0


def test_json_is_read(tmp_path, protocol) -> None:
    check(read_predictions(write_json(tmp_path / "p.json", RECORDS), protocol))


def test_npz_is_read(tmp_path, protocol) -> None:
    check(read_predictions(write_npz(tmp_path / "p.npz", **npz_arrays(RECORDS)), protocol))


def test_npz_in_the_order_of_the_queries_is_not_copied(tmp_path, protocol) -> None:
    records = sorted(RECORDS, key=lambda record: str(record["query"]))
    found = read_predictions(write_npz(tmp_path / "p.npz", **npz_arrays(records)), protocol)
    check(found)
    assert np.shares_memory(found.of("1_0").boxes, found.boxes)


def test_rows_that_are_not_grouped_are_in_the_order_of_the_file(tmp_path, protocol) -> None:
    """Enough boxes that a sort does not keep ties by chance; the first query is the lowest."""
    rng = np.random.default_rng(0)
    query = np.array([0, *rng.integers(0, 2, 299)])
    arrays = {
        "query": query,
        "image": rng.integers(0, 3, 300),
        "bbox": np.tile(np.float32([0, 0, 1, 1]), (300, 1)),
        "score": np.arange(300, dtype=np.float32),
    }
    texts = {
        "query_names": np.array(["0_0", "1_0"]),
        "image_names": np.array(["c1a", "c2b", "c3c"]),
    }
    found = read_predictions(write_npz(tmp_path / "p.npz", **arrays, **texts), protocol)
    for q, name in enumerate(("0_0", "1_0")):
        rows = [i for i in range(300) if query[i] == q]
        assert found.of(name).scores.tolist() == rows
        assert found.of(name).images.tolist() == arrays["image"][rows].tolist()
    assert (found.images.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_more_queries_than_16_bits_can_number(tmp_path, protocol) -> None:
    names = [f"{i}_0" for i in range(2**16 + 1)]
    many = replace(protocol, queries=(), skipped={name: i for i, name in enumerate(names)})
    records = [
        {"query": name, "image": "c1a", "bbox": [0, 0, 1, 1], "score": i}
        for i, name in enumerate((names[-1], names[0], names[-1]))
    ]
    found = read_predictions(write_json(tmp_path / "p.json", records), many)
    assert found.of(names[0]).scores.tolist() == [1]
    assert found.of(names[-1]).scores.tolist() == [0, 2]


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_all_boxes_may_be_of_one_query_and_image(tmp_path, protocol, suffix: str) -> None:
    write = write_json if suffix == "json" else lambda p, r: write_npz(p, **npz_arrays(r))
    found = read_predictions(write(tmp_path / f"p.{suffix}", [RECORDS[1]] * 3), protocol)
    assert found.of("0_0").images.tolist() == [0, 0, 0]


def test_byte_names_and_integer_numbers_are_read(tmp_path, protocol) -> None:
    arrays = npz_arrays(RECORDS)
    for name in ("query_names", "image_names"):
        arrays[name] = np.char.encode(arrays[name])
    arrays["score"] = np.array([3, 2, 1], np.uint8)
    found = read_predictions(write_npz(tmp_path / "p.npz", **arrays), protocol)
    assert found.of("1_0").scores.tolist() == [3, 1]
    assert found.scores.dtype.kind == "f"


def test_names_that_no_record_uses_are_no_matter(tmp_path, protocol) -> None:
    arrays = npz_arrays(RECORDS)
    arrays["image_names"] = np.append(arrays["image_names"], "c9z")
    check(read_predictions(write_npz(tmp_path / "p.npz", **arrays), protocol))


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_no_predictions_are_allowed(tmp_path, protocol, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    if suffix == "json":
        write_json(path, [])
    else:
        empty = np.zeros(0, np.int64)
        arrays = {"query": empty, "image": empty, "score": np.zeros(0)}
        names = {"query_names": np.array(["0_0"]), "image_names": np.array(["c1a"])}
        write_npz(path, bbox=np.zeros((0, 4)), **arrays, **names)
    assert len(read_predictions(path, protocol)) == 0


def test_a_query_may_be_a_number_in_json(tmp_path) -> None:
    truth = QueryTruth("7", 7, ("a",), 50.0, (("b", B),))
    protocol = build_protocol(PRESETS["ins"], {"a": 0, "b": 1}, [truth])
    record = {"query": 7, "image": "b", "bbox": [0, 0, 1, 1], "score": 1}
    found = read_predictions(write_json(tmp_path / "p.json", [record]), protocol)
    assert len(found.of("7").images) == 1


WRONG_IN_BOTH = [
    ({"query": "9_0"}, r"record 2: query '9_0' is none of the 3"),
    ({"image": "c9z"}, r"record 2: image 'c9z' is none of the 3"),
    ({"score": float("nan")}, r"record 2 \(query 1_0, image c1a\): the score is not.*nan"),
    ({"score": float("inf")}, "record 2.*the score is not a finite"),
    (
        {"bbox": [5, 6, 4, 8]},
        r"record 2 \(query 1_0, image c1a\): the box is inverted, it must be "
        r"\[x0, y0, x1, y1\] with x0 <= x1 and y0 <= y1: bbox \[5.0, 6.0, 4.0, 8.0\]",
    ),
    ({"bbox": [5, 6, 7, 5]}, "record 2.*inverted"),
    ({"bbox": [5, 6, 7, float("nan")]}, r"record 2 \(.*\): the box is not finite: bbox"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_IN_BOTH)
def test_a_wrong_record_is_named_in_json(tmp_path, protocol, change: dict, message: str) -> None:
    path = write_json(tmp_path / "p.json", [*RECORDS[:2], RECORDS[2] | change])
    with pytest.raises(PredictionError, match=rf"p\.json: {message}"):
        read_predictions(path, protocol)


@pytest.mark.parametrize(("change", "message"), WRONG_IN_BOTH)
def test_a_wrong_record_is_named_in_npz(tmp_path, protocol, change: dict, message: str) -> None:
    arrays = npz_arrays([*RECORDS[:2], RECORDS[2] | change])
    with pytest.raises(PredictionError, match=rf"p\.npz: {message}"):
        read_predictions(write_npz(tmp_path / "p.npz", **arrays), protocol)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"query": "0_0", "image": "c1a", "bbox": [0, 0, 1, 1]}],
            "record 0: lacks ['score']; a record is "
            '{"query": "ID_k", "image": name, "bbox": [x0, y0, x1, y1], "score": number}',
        ),
        ([{**RECORDS[0], "bbox": [0, 1]}], "record 0: bbox must be four numbers, found [0, 1]"),
        (
            [{**RECORDS[0], "bbox": [0, 0, 1, "1"]}],
            "record 0: bbox must be four numbers, found [0, 0, 1, '1']",
        ),
        (
            [RECORDS[0], {**RECORDS[0], "score": "high"}],
            "record 1: score must be a number, found 'high'",
        ),
        ([{**RECORDS[0], "image": 3}], "record 0: image must be a name, found 3"),
        ([RECORDS[0], 3], "record 1 must be an object, found 3"),
        ({"predictions": []}, "record 0: lacks ['query', 'image', 'bbox', 'score']; a record is"),
        (3, "must hold a list of records"),
    ],
)
def test_a_wrong_json_is_named(tmp_path, protocol, content: object, message: str) -> None:
    path = write_json(tmp_path / "p.json", content)
    with pytest.raises(PredictionError, match=f"^{re.escape(f'{path}: {message}')}"):
        read_predictions(path, protocol)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, r"lacks the arrays \['score'\]"),
        ({"bbox": np.zeros((3, 3))}, r"bbox is float64 \(3, 3\), must be numbers \(3, 4\)"),
        ({"image": np.array([0, 1])}, r"image is int\d\d \(2,\), must be integers \(3,\)"),
        ({"image": np.array([0, 1, 5])}, "record 2: image is 5, but image_names has 2 texts"),
        ({"image": np.array([0, 1, 2])}, "record 2: image is 2, but image_names has 2 texts"),
        ({"query": np.array([0, -1, 0])}, "record 1: query is -1"),
        ({"query": np.array([0.0, 1.0, 0.0])}, "query is float64"),
        ({"query": np.array([0, 2**40, 0])}, "query holds a position above 2147483647"),
        ({"query": np.array([0, 2**31 - 1, 0])}, "record 1: query is 2147483647, but"),
        ({"query": np.array([0, 1 - 2**31, 0])}, "record 1: query is -2147483647, but"),
        ({"query": np.array([0, -(2**31), 0])}, "query holds a position above 2147483647"),
        ({"score": np.zeros(2)}, r"score is float64 \(2,\), must be numbers \(3,\)"),
        ({"score": np.array(["a"] * 3)}, r"score is <U1 \(3,\), must be numbers \(3,\)"),
        ({"image_names": np.array([1, 2])}, "image_names is int64"),
        ({"image_names": np.array(["a", None], object)}, "cannot be read as .npz"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path, protocol, change: dict, message: str) -> None:
    arrays = {k: v for k, v in (npz_arrays(RECORDS) | change).items() if v is not None}
    with pytest.raises(PredictionError, match=rf"p\.npz: .*{message}"):
        read_predictions(write_npz(tmp_path / "p.npz", **arrays), protocol)


@pytest.mark.parametrize("name", ["p.json", "p.npz"])
def test_a_damaged_file_is_named(tmp_path, protocol, name: str) -> None:
    (tmp_path / name).write_bytes(b'[{"query":')
    how = "as .npz: is not a readable file of predictions: " if name == "p.npz" else "as JSON: "
    with pytest.raises(PredictionError, match=f"{name}: cannot be read {how}") as raised:
        read_predictions(tmp_path / name, protocol)
    # A process that reads for another one sends its errors like this.
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.reason) == (str(raised.value), str(raised.value))


def test_other_files_are_refused(tmp_path, protocol) -> None:
    with pytest.raises(
        PredictionError, match=r"p\.pkl: predictions are .json or .npz, not '.pkl'$"
    ):
        read_predictions(tmp_path / "p.pkl", protocol)
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "none.npz", protocol)


def test_a_dataset_without_queries_knows_none(tmp_path, protocol) -> None:
    path = write_json(tmp_path / "p.json", RECORDS)
    nothing = replace(protocol, queries=(), skipped={})
    message = "query '1_0' is none of the 0 that the annotations know, for example None"
    with pytest.raises(PredictionError, match=f"record 0: {message}$"):
        read_predictions(path, nothing)


def test_many_boxes_are_read_and_judged_at_the_speed_of_the_benchmark(tmp_path) -> None:
    """All of INS-PRW, 1,537 queries of 30,000 boxes, has 60 s; so 30 queries have 1.2 s of CPU."""
    num_queries, num_images = 30, 6000
    names = [f"c{1 + i % 6}s1_{i:06d}" for i in range(num_images)]
    positives = [(names[i], B) for i in (7, 2000, 5999)]
    truths = [
        QueryTruth(f"{q}_0", q, (names[6 * q],), 50.0, tuple(positives)) for q in range(num_queries)
    ]
    rules = replace(PRESETS["ins_prw"], separate_cameras=False)
    protocol = build_protocol(rules, {name: i for i, name in enumerate(names)}, truths)
    count = 5 * num_images
    rng = np.random.default_rng(0)
    image = np.tile(np.repeat(np.arange(num_images, dtype=np.int32), 5), num_queries)
    corners = rng.random((num_queries * count, 2), np.float32) * 800 + 60
    score = rng.random(num_queries * count, np.float32)
    boxes = np.hstack([corners, corners + 40])
    first_of = np.arange(num_queries)[:, None] * count + 5 * np.array([7, 2000, 5999])
    boxes[first_of] = B
    score[first_of] = 2.0
    arrays = {"query": np.repeat(np.arange(num_queries), count), "image": image, "score": score}
    texts = {"query_names": np.array([t.name for t in truths]), "image_names": np.array(names)}
    path = write_npz(tmp_path / "p.npz", bbox=boxes, **arrays, **texts)
    started = time.process_time()
    predictions = read_predictions(path, protocol)
    report = judge(protocol, lambda query: predictions.of(query.name))
    assert time.process_time() - started < 1.2
    assert all(one.tp_ranks.tolist() == [1, 2, 3] for one in report.outcomes)
    assert all(one.num_boxes == count - 5 for one in report.outcomes)
