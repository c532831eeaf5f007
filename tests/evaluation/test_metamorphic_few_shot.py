"""nAP and bAP: what must not change them, and what changes them in a known way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spil_d2.evaluation import mean_interval

from .few_shot_cases import BASE, NOVEL, SIZE, evaluate, random_case, registered

Found = dict[int, list[tuple]]
"""Image id -> (category id, score, x0, y0, x1, y1)."""


def whole(annotations: list[dict], found: Found) -> tuple[list[dict], Found]:
    """Whole coordinates, and scores that stay apart in float32: exact when scaled or mirrored."""
    annotations = [{**one, "bbox": np.round(one["bbox"]).tolist()} for one in annotations]
    annotations = [{**one, "area": one["bbox"][2] * one["bbox"][3]} for one in annotations]
    rows = {
        i: [(c, s, *np.round(box).tolist()) for c, s, *box in some] for i, some in found.items()
    }
    return annotations, rows


@pytest.fixture(params=range(2))
def case(request: pytest.FixtureRequest) -> tuple[list[dict], Found]:
    return whole(*random_case(request.param))


@pytest.fixture
def numbers(tmp_path) -> Callable[[list[dict], Found], dict[str, float]]:
    """Annotations and predictions -> every number in percent."""

    def judge(annotations: list[dict], found: Found) -> dict[str, float]:
        with registered(tmp_path) as register:
            return evaluate(register(annotations, max(found) + 1), found)

    return judge


def same(one: dict[str, float], other: dict[str, float], *keys: str) -> bool:
    chosen = keys or tuple(one)
    return [one[k] for k in chosen] == pytest.approx([other[k] for k in chosen], nan_ok=True)


def test_order_scores_and_distractors(case, numbers) -> None:
    annotations, found = case
    expected = numbers(annotations, found)
    shuffled = {i: found[i][::-1] for i in reversed(found)}
    assert same(numbers(annotations[::-1], shuffled), expected)
    mapped = {i: [(c, s**3 / 2, *box) for c, s, *box in some] for i, some in found.items()}
    assert same(numbers(annotations, mapped), expected)
    wrong = {
        i: [*some, *((c, 1e-6, 180.0, 180.0, 199.0, 199.0) for c in (*BASE, *NOVEL))]
        for i, some in found.items()
    }
    assert same(numbers(annotations, wrong), expected)


def test_mirrored_and_scaled_pictures(case, numbers) -> None:
    annotations, found = case
    expected = numbers(annotations, found)

    def moved(change: Callable[[float, float, float, float], tuple]) -> dict[str, float]:
        truth = []
        for one in annotations:
            x, y, w, h = one["bbox"]
            x0, y0, x1, y1 = change(x, y, x + w, y + h)
            area = (x1 - x0) * (y1 - y0)
            truth.append({**one, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": area})
        rows = {i: [(c, s, *change(*box)) for c, s, *box in some] for i, some in found.items()}
        return numbers(truth, rows)

    assert same(moved(lambda x0, y0, x1, y1: (SIZE - x1, y0, SIZE - x0, y1)), expected)
    # Sizes are in pixels: the same boxes are small, medium and large otherwise.
    scaled = moved(lambda *box: tuple(4 * x for x in box))
    parts = [p + m for p in ("", "n", "b") for m in ("AP", "AP50", "AP75")]
    assert same(scaled, expected, *parts)


def test_base_and_novel_classes_do_not_see_each_other(case, numbers) -> None:
    annotations, found = case
    expected = numbers(annotations, found)
    without = {i: [row for row in some if row[0] not in BASE] for i, some in found.items()}
    changed = numbers(annotations, without)
    assert same(changed, expected, *(k for k in expected if k.startswith("n")))
    assert changed["bAP"] == 0 < expected["bAP"]
    # All is the mean over classes: two of each kind.
    assert changed["AP"] == pytest.approx(expected["nAP"] / 2)
    assert expected["AP"] == pytest.approx((expected["nAP"] + expected["bAP"]) / 2)


def test_half_of_the_objects_without_a_false_alarm_in_any_number_of_images(numbers) -> None:
    """Precision is 1 at the 51 of 101 recalls up to one half."""
    truth = [
        {"id": i + 1, "image_id": i, "category_id": 3, "bbox": [9, 9, 50, 50], "area": 2500,
         "iscrowd": 0}
        for i in range(4)
    ]  # fmt: skip
    found: Found = {i: [(3, 0.9 - i / 10, 9.0, 9.0, 59.0, 59.0)] * (i < 2) for i in range(4)}
    assert numbers(truth[:2], {0: found[0], 1: []})["AP-class 3"] == pytest.approx(5100 / 101)
    assert numbers(truth, found)["AP-class 3"] == pytest.approx(5100 / 101)


def test_the_interval_over_seeds_moves_and_stretches_with_the_values() -> None:
    values = [4.0, 7.5, 5.25, 9.0]
    mean, half = mean_interval(values)
    assert mean_interval(values[::-1]) == pytest.approx((mean, half))
    assert mean_interval([3 * v + 1 for v in values]) == pytest.approx((3 * mean + 1, 3 * half))
    # As many values again tell more: the interval shrinks.
    assert mean_interval(values * 2)[1] < half
