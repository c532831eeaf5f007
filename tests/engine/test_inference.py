"""Two passes on a dataset that no stage ran on."""

import cv2
import numpy as np
import pytest

from spil_d2.engine.inference import (
    mix_similarities,
    own_similarities,
    refined_similarities,
    rerank,
    weigh_by_probability,
)
from spil_d2.ops.similarity import unit_rows
from spil_d2.retrieval.index import create_region_index
from spil_d2.retrieval.rerank import KReciprocal, k_reciprocal_similarities
from spil_d2.structures import Query, RankList, RankLists, Reference

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


def test_similarities_are_mixed_by_their_share():
    mixed = mix_similarities({(7, 4): 1.0, (7, 2): 0.0}, {(7, 4): 0.2, (7, 2): 0.6}, 0.25)
    assert mixed == pytest.approx({(7, 4): 0.4, (7, 2): 0.45})


def test_the_lists_own_similarities():
    assert own_similarities(LISTS) == pytest.approx({(7, 4): 0.9, (7, 2): 0.8, (7, 9): -0.1})


class ColourEngine:
    """Describes a box by its place and the picture's colour."""

    def embed(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        colour = np.tile(image[0, 0].astype(np.float32) / 255, (len(boxes), 1))
        return unit_rows(np.concatenate([colour, boxes.astype(np.float32) / 32], axis=1))


@pytest.mark.parametrize("reciprocal", [None, KReciprocal(k1=3, k2=2, weight=0.4, shortlist=4)])
def test_refined_similarities_are_those_of_the_new_boxes(tmp_path, reciprocal):
    rng = np.random.default_rng(0)
    engine, gallery = ColourEngine(), []
    for image_id in range(7):
        path = str(tmp_path / f"{image_id}.png")
        cv2.imwrite(path, np.full((32, 32, 3), rng.integers(0, 255, 3), np.uint8))
        gallery.append({"image_id": image_id, "file_name": path})
    queries = [
        Query(q, (Reference(gallery[q]["file_name"], 32, 32, (2, 3, 20, 25), image_id=q),))
        for q in range(2)
    ]
    lists = RankLists(
        tuple(
            RankList(
                q,
                np.arange(2, 7)[:: 1 - 2 * q],
                rng.uniform(1, 30, (5, 4)).astype(np.float32),
                np.linspace(0.9, 0.5, 5, dtype=np.float32),
            )
            for q in range(2)
        )
    )
    found = refined_similarities(
        engine, create_region_index("exact"), gallery, queries, lists, reciprocal
    )
    assert len(found) == 10
    for query in queries:
        one = lists[query.id]
        pictures = [cv2.imread(gallery[i]["file_name"])[:, :, ::-1] for i in one.image_ids]
        shown = cv2.imread(query.primary.file_name)[:, :, ::-1]
        rows = [engine.embed(shown, np.array([query.primary.box]))[0]]
        rows += [engine.embed(p, box[None])[0] for p, box in zip(pictures, one.boxes)]
        nodes = np.array(rows)
        expected = nodes[1:] @ nodes[0]
        if reciprocal is not None:
            head = k_reciprocal_similarities(nodes[:5] @ nodes[:5].T, k1=3, k2=2, weight=0.4)
            expected = np.append(head, min(one.similarities[4], head.min()))
        seen = [found[query.id, i] for i in one.image_ids.tolist()]
        assert seen == pytest.approx(expected.tolist(), abs=2e-3)
