import numpy as np
import pytest

from spil_d2.engine.inference import own_similarities, rerank, weigh_by_probability
from spil_d2.structures import RankList, RankLists

LISTS = RankLists(
    (
        RankList(
            query_id=7,
            image_ids=np.array([4, 2, 9]),
            boxes=np.zeros((3, 4), np.float32),
            similarities=np.array([0.9, 0.8, -0.1], np.float32),
            probabilities=np.array([0.25, 0.81, 0.5], np.float32),
        ),
    )
)
REFINED = {(7, 4): 0.6, (7, 2): 0.5, (7, 9): -0.2}


def test_similarities_are_weighed_by_a_power_of_p():
    weighed = weigh_by_probability(LISTS, REFINED, 0.5)
    assert weighed == pytest.approx({(7, 4): 0.6 * 0.5, (7, 2): 0.5 * 0.9, (7, 9): -0.2})
    assert rerank(LISTS, weighed)[7].image_ids.tolist() == [2, 4, 9]


def test_power_zero_changes_nothing():
    assert weigh_by_probability(LISTS, REFINED, 0.0) == REFINED
    assert rerank(LISTS, REFINED)[7].image_ids.tolist() == [4, 2, 9]


def test_an_image_without_a_detection_falls_behind():
    lists = RankLists((LISTS[7].take(np.arange(3)),))
    lists[7].probabilities[0] = 0.0
    assert rerank(lists, weigh_by_probability(lists, REFINED, 0.5))[7].image_ids[0] == 2


def test_the_lists_own_similarities():
    assert own_similarities(LISTS) == pytest.approx({(7, 4): 0.9, (7, 2): 0.8, (7, 9): -0.1})
