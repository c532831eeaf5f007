"""What a user reads of a result."""

from __future__ import annotations

from spil_d2.structures import SearchHit


def test_a_hit_is_written_with_rounded_numbers_and_without_ids() -> None:
    box = (1.239, 2.0, 30.504, 44.126)
    hit = SearchHit(3, "sub/a.jpg", 17, box, 0.12345678, -0.98765432, {"size": [2, 2]})
    assert hit.to_dict() == {
        "image": "sub/a.jpg",
        "box": [1.24, 2.0, 30.5, 44.13],
        "score": 0.123457,
        "similarity": -0.987654,
        "rank": 3,
    }
