"""A folder of a dozen small pictures, and an index of it that no test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from spil_d2.data.datasets.instance_search import load_queries
from spil_d2.data.datasets.synthetic import build_demo_gallery
from spil_d2.engine.folder_index import IndexSettings, index_folder
from spil_d2.engine.searcher import Searcher

INSTANT = Path(__file__).parents[2] / "configs/quick_schedules/spil_tiny_instant_test.yaml"


@pytest.fixture(scope="session")
def instant() -> IndexSettings:
    """The smallest network on small pictures, in this process, four pictures a segment."""
    # Results in the order of their similarities, as the engines of configs/search/ have them.
    opts = ("SEARCH.KRECIPROCAL.ENABLED", "False")
    return IndexSettings(config_file=INSTANT, opts=opts, num_workers=0, segment_images=4)


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory) -> Path:
    """A demo data set: two instances in four pictures each, and four other pictures."""
    root = tmp_path_factory.mktemp("demo") / "gallery"
    build_demo_gallery(root, num_instances=2, images_per_instance=4, num_distractors=4)
    return root


@pytest.fixture(scope="session")
def demo_queries(demo_root):
    """Its queries: those with an even place are from outside the gallery."""
    return load_queries(demo_root)


@pytest.fixture
def photos(demo_root, tmp_path) -> Path:
    """A copy of the pictures, some in a folder below, that a test may change."""
    folder = tmp_path / "photos"
    shutil.copytree(demo_root / "images", folder)
    (folder / "below").mkdir()
    for path in sorted(folder.glob("*.jpg"))[:3]:
        path.rename(folder / "below" / path.name)
    return folder


@pytest.fixture(scope="session")
def demo_index(demo_root, instant, tmp_path_factory) -> Path:
    """An index of the demo pictures."""
    place = tmp_path_factory.mktemp("index") / "demo.index"
    index_folder(demo_root / "images", place, instant, progress=False)
    return place


@pytest.fixture(scope="session")
def searcher(demo_index) -> Searcher:
    return Searcher.open(demo_index)
