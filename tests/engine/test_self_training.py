"""A stage without pseudo labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spil_d2.engine.self_training import SelfTraining, _Reached
from spil_d2.structures import Candidate, QueryPool, RankList, RankLists, SamplePool, Target
from spil_d2.utils.artifacts import publish_directory

BOX = (10.0, 10.0, 50.0, 40.0)


@pytest.fixture
def training(tmp_path: Path) -> SelfTraining:
    """Of no model: only what a stage has reached is judged."""
    return SelfTraining(
        None,
        RankLists(()),
        [],
        None,
        None,
        None,
        directory=tmp_path,
        fingerprint="f",
        num_stages=2,
        train_top_k=2,
        stage_top_k=-1,
        thresholds=[0.9, 0.9],
        num_crops=1,
        cache_vectors=False,
    )


def reached(probability: float) -> _Reached:
    """A stage 0 whose localizer is so sure of the better of two images."""
    candidates = (Candidate(5, BOX), Candidate(6, BOX))
    pool = SamplePool(0, (QueryPool(1, Target(BOX, 1.0), candidates),))
    boxes = np.array([BOX, BOX], np.float32)
    similarities = np.array([0.8, 0.7], np.float32)
    lists = RankLists((RankList(1, np.array([5, 6]), boxes, similarities),))
    probabilities = np.array([probability, 0.1], np.float32)
    found = RankList(1, np.array([5, 6]), boxes + 1, similarities, probabilities)
    return _Reached(pool, lists, RankLists((found,)))


def test_a_stage_that_nothing_is_sure_enough_for_keeps_its_pool(
    training: SelfTraining, caplog: pytest.LogCaptureFixture
) -> None:
    before = reached(0.5)
    pool = training._select(before)
    assert pool is not None and pool.stage == 1 and pool.num_targets == 0
    assert pool.queries == before.pool.queries
    assert (
        "no candidate of stage 1 passes the threshold 0.900 (the best has 0.500): its pool stays "
        "as it was; lower SPIL.TAU or train longer"
    ) in caplog.text


def test_one_sure_box_makes_a_pool(
    training: SelfTraining, caplog: pytest.LogCaptureFixture
) -> None:
    pool = training._select(reached(0.95))
    assert pool is not None and pool.num_targets == 1
    assert pool[1].candidates[0].target is not None and not caplog.text


def test_no_ranked_image_at_all_is_not_a_probability(
    training: SelfTraining, caplog: pytest.LogCaptureFixture
) -> None:
    empty = RankList(1, np.zeros(0, int), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    found = RankList(1, empty.image_ids, empty.boxes, empty.similarities, np.zeros(0, np.float32))
    pool = SamplePool(0, (QueryPool(1, Target(BOX, 1.0), ()),))
    selected = training._select(_Reached(pool, RankLists((empty,)), RankLists((found,))))
    assert selected is not None and selected.num_targets == 0
    assert "the best has 0.000" in caplog.text


@pytest.mark.parametrize(("there", "wanted", "missing"), [((0, 2), 1, "01"), ((0,), 2, "01")])
def test_a_stage_is_not_made_with_the_weights_of_another(
    training: SelfTraining, there: tuple[int, ...], wanted: int, missing: str
) -> None:
    for stage in there:
        publish_directory(training.folder(stage), lambda path: None, {"fingerprint": "f"})
    with pytest.raises(FileNotFoundError, match=f"{missing} is missing.*copy it back, or start"):
        training.pool(wanted, 8)
