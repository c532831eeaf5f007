"""Which threshold is whose (D9), and what the stages of Algorithm 1 hand to each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from spil_d2.engine.self_training import SelfTraining
from spil_d2.structures import Query, RankList, RankLists, Reference, SamplePool

TAU = (0.99, 0.89, 0.79, 0.69)
P = np.array([0.995, 0.95, 0.85, 0.75, 0.5], np.float32)
QUERY = Query(7, (Reference("q.jpg", 100, 80, (10, 10, 50, 60)),), instance_id=1)
LISTS = RankLists(
    (
        RankList(
            7,
            np.arange(5),
            np.tile(np.array([[0, 0, 10, 10]], np.float32), (5, 1)),
            np.linspace(0.9, 0.5, 5, dtype=np.float32),
        ),
    )
)


class SureLocalizer:
    """Finds in every image the box moved by the stage, always with the same p."""

    def __init__(self) -> None:
        self.stages: list[int] = []

    def encode_pool(self, pool: SamplePool, count: int) -> dict:
        return {}

    def localize(self, lists: RankLists, pool: SamplePool, table: dict, label: str) -> RankLists:
        self.stages.append(pool.stage)
        found = [
            replace(one, boxes=one.boxes + pool.stage + 1, probabilities=P) for one in lists.lists
        ]
        return RankLists(tuple(found))


def test_tau_k_filters_what_enters_stage_k_and_the_last_one_the_result(tmp_path: Path) -> None:
    localizer = SureLocalizer()
    training = SelfTraining(
        localizer,  # type: ignore[arg-type]
        LISTS,
        [QUERY],
        None,
        None,
        None,
        directory=tmp_path,
        fingerprint="0123456789abcdef",
        num_stages=4,
        train_top_k=5,
        stage_top_k=-1,
        thresholds=TAU,
        num_crops=5,
        cache_vectors=False,
    )
    pools = [training.pool(stage, iteration=9) for stage in range(5)]
    # Stage-0 has the user's box alone; then p > .99, .89, .79, and .69 for the result.
    assert [one[7].confident for one in pools] == [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
    assert localizer.stages == [0, 1, 2, 3], "each stage's model is asked once"
    for stage in range(1, 5):
        assert training.manifest(stage)["threshold"] == TAU[stage - 1]
        for place, one in enumerate(pools[stage][7].candidates):
            is_confident = P[place] > TAU[stage - 1]
            # Pseudo boxes are those of the stage just ended; the others the search engine's.
            moved = float(stage if is_confident else 0)
            assert one.box == (moved, moved, 10 + moved, 10 + moved)
            assert (one.target is not None) == is_confident
            if one.target is not None:
                assert one.target.weight == P[place]
