"""Sure boxes are moved to the borders of what they hold."""

import numpy as np
import pytest
from PIL import Image

from spil_d2.engine.box_refinement import BoxRefiner, build_refiner
from spil_d2.ops.box_refinement import GrabCutRefinement
from spil_d2.structures import (
    Candidate,
    QueryPool,
    RankList,
    RankLists,
    SamplePool,
    Target,
)

TRUTH = (40.0, 30.0, 100.0, 90.0)
LOOSE = (32.0, 24.0, 108.0, 98.0)


@pytest.fixture
def gallery(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 40, (120, 160, 3), dtype=np.uint8)
    image[30:90, 40:100] = rng.integers(180, 250, (60, 60, 3))
    Image.fromarray(image).save(tmp_path / "a.png")
    return [{"image_id": i, "file_name": str(tmp_path / "a.png")} for i in (1, 2, 3)]


def test_pseudo_boxes_move_in_both_views_and_nothing_else_does(gallery):
    pool = SamplePool(
        1,
        (
            QueryPool(
                7,
                Target(LOOSE, 1.0),
                (
                    Candidate(1, LOOSE, Target(LOOSE, 0.95)),
                    Candidate(2, LOOSE),
                    Candidate(3, LOOSE, Target(LOOSE, 0.99)),
                ),
            ),
        ),
    )
    refined = BoxRefiner(GrabCutRefinement(weight=1.0), gallery).refine_pool(pool)
    assert refined.stage == 1
    one = refined[7]
    assert one.reference == Target(LOOSE, 1.0), "the user's box is the truth"
    assert one.candidates[1] == Candidate(2, LOOSE), "the engine's box is no label"
    for position, weight in ((0, 0.95), (2, 0.99)):
        candidate = one.candidates[position]
        assert candidate.box == candidate.target.box
        assert candidate.target.weight == weight
        np.testing.assert_allclose(candidate.box, TRUTH, atol=2)


def test_lists_are_refined_where_the_localizer_is_sure(gallery):
    boxes = np.array([LOOSE, LOOSE, LOOSE], np.float32)
    one = RankList(
        7,
        np.array([3, 1, 2]),
        boxes,
        np.array([0.9, 0.8, 0.7], np.float32),
        np.array([0.95, 0.6, 0.7], np.float32),
    )
    refiner = BoxRefiner(GrabCutRefinement(weight=1.0), gallery)
    refined = refiner.refine_lists(RankLists((one,)), above=0.6)[7]
    np.testing.assert_allclose(refined.boxes[[0, 2]], [TRUTH, TRUTH], atol=2)
    np.testing.assert_array_equal(refined.boxes[1], LOOSE)
    np.testing.assert_array_equal(refined.image_ids, one.image_ids)
    np.testing.assert_array_equal(one.boxes, boxes, "the given list stays as it was")


def test_the_method_is_checked(gallery):
    assert build_refiner("none", gallery) is None
    with pytest.raises(ValueError, match=r"REFINE_BOXES 'snake' is none of .*grabcut"):
        build_refiner("snake", gallery)
