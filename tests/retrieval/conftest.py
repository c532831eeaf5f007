"""An index of regions of each backend, plain and centred."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spil_d2.retrieval.index import (
    INDEX_BACKENDS,
    RegionIndex,
)

from .index_cases import LIBRARIES, create


@pytest.fixture(params=list(INDEX_BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "centred"])
def is_centred(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def index(backend: str, is_centred: bool, tmp_path: Path) -> Iterator[RegionIndex]:
    with create(backend, tmp_path / "index", is_centred) as made:
        yield made
