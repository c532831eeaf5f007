"""What a query may say of its class."""

from __future__ import annotations

import numpy as np
import pytest

from spil_d2.structures import Query, Reference

SHOT = (Reference("shot.jpg", 20, 10, (0.0, 0.0, 5.0, 5.0)),)


@pytest.mark.parametrize("category", [None, 0, 62])
def test_a_class_is_an_int_or_unknown(category: int | None) -> None:
    assert Query(1, SHOT, category_id=category).category_id == category


@pytest.mark.parametrize("category", ["62", 62.0, True, np.int64(62)])
def test_another_type_is_an_error_that_names_it(category: object) -> None:
    with pytest.raises(ValueError, match=f"query 1: category_id is .*{type(category).__name__}"):
        Query(1, SHOT, category_id=category)
