"""What is particular to one backend of the index of regions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from spil_d2.retrieval import Regions
from spil_d2.retrieval.index import create_region_index, faiss_index, open_region_index
from spil_d2.retrieval.index.exact import EMBEDDINGS_NAME


def make_images(count: int, per_image: int = 5, size: int = 16) -> list[Regions]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(count, per_image, size)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    boxes = rng.uniform(0, 9, (count, per_image, 4)).astype(np.float32)
    return [Regions(box, box[:, 0], row) for box, row in zip(boxes, rows)]


@pytest.mark.parametrize(
    ("backend", "library", "advice"),
    [("faiss", "faiss", "faiss-cpu"), ("milvus", "pymilvus", "pymilvus milvus-lite")],
)
def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, backend: str, library: str, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"pip install {advice}"):
        create_region_index(backend)


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ValueError, match=r"'fais' is none of \['exact', 'faiss', 'milvus'\]"):
        create_region_index("fais")


def test_vectors_are_stored_once_in_half_precision(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for backend, overhead in (("exact", 0), ("faiss", 16)):
        with create_region_index(backend, tmp_path / backend) as index:
            index.add(range(1000), make_images(1000, size=256))
            index.persist()
        files = [path for path in (tmp_path / backend).rglob("*") if path.is_file()]
        tables = 5000 * (16 + 4 + 4) + 1000 * 16
        size = sum(path.stat().st_size for path in files)
        assert size - 5000 * (2 * 256 + overhead) - tables < 10_000


def test_lists_of_faiss_give_full_rank_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(faiss_index, "_MIN_REGIONS_FOR_LISTS", 100)
    monkeypatch.setattr(faiss_index, "_MIN_PROBED", 1)
    images = make_images(400)
    exact = create_region_index("exact")
    exact.add(range(400), images)
    queries = np.stack([one.embeddings[0] for one in images[:20]])
    with create_region_index("faiss", tmp_path / "a", probed=0.2) as index:
        index.add(range(400), images)
        index.persist()
        true = exact.search(range(20), queries, 10)
        found = index.search(range(20), queries, 10)
        hits = [len(set(true[i].image_ids) & set(found[i].image_ids)) for i in range(20)]
        assert 60 < sum(hits) < 200, "an approximation, though not a bad one"
        assert all(found[i].image_ids[0] == i for i in range(20))
        # Few lists cannot hold these, so all are looked into.
        for allowed in (None, range(0, 400, 40)):
            one = exact.search([0], queries[:1], 400, None, allowed)[0]
            two = index.search([0], queries[:1], 400, None, allowed)[0]
            assert one.image_ids.tolist() == two.image_ids.tolist()
            np.testing.assert_array_equal(one.boxes, two.boxes)
    with open_region_index(tmp_path / "a", probed=1.0) as index:
        found = index.search(range(20), queries, 10)
        assert all(found[i].image_ids.tolist() == true[i].image_ids.tolist() for i in range(20))


def test_a_damaged_file_of_vectors_is_named(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for backend, name in (("exact", EMBEDDINGS_NAME), ("faiss", faiss_index.VECTORS_NAME)):
        with create_region_index(backend, tmp_path / backend) as index:
            index.add(range(10), make_images(10))
            index.persist()
        (file,) = (tmp_path / backend).rglob(name)
        file.write_bytes(file.read_bytes()[:60])
        with pytest.raises(ValueError, match=str(tmp_path / backend)):
            open_region_index(tmp_path / backend)
        file.unlink()
        with pytest.raises(ValueError, match=str(tmp_path / backend)):
            open_region_index(tmp_path / backend)


@pytest.mark.parametrize("backend", ["faiss", "milvus"])
def test_probed_is_a_part(backend: str) -> None:
    pytest.importorskip({"faiss": "faiss", "milvus": "pymilvus"}[backend])
    for value in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"probed is {value}"):
            create_region_index(backend, probed=value)


def test_milvus_by_its_address(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(str(tmp_path / "server"))
    images, query = make_images(30), make_images(1)[0].embeddings[:1]
    try:
        options = {"uri": f"http://127.0.0.1:{port}", "half_precision": False, "token": "a:b"}
        with create_region_index("milvus", tmp_path / "index", **options) as index:
            index.add(range(30), images)
            index.persist()
            index.delete([7])
            index.persist()
            before = index.search([0], query, 30)[0]
        assert "a:b" not in (tmp_path / "index" / "index.json").read_text()
        assert not (tmp_path / "index" / "vectors.db").exists()
        with open_region_index(tmp_path / "index", token="a:b") as again:
            after = again.search([0], query, 30)[0]
            assert before.image_ids.tolist() == after.image_ids.tolist() and len(after) == 29
    finally:
        server.stop(grace=0).wait()
        database.close()


def test_an_address_of_milvus_is_one() -> None:
    pytest.importorskip("pymilvus")
    with pytest.raises(ValueError, match="'vectors.db' is no address"):
        create_region_index("milvus", uri="vectors.db")


def test_half_precision_vectors_of_milvus_are_bytes() -> None:
    pytest.importorskip("pymilvus")
    from spil_d2.retrieval.index.milvus_index import as_half

    row = np.array([0.5, -0.25, 1e-3], np.float16)
    for value in (row.tobytes(), [row.tobytes()], row.tolist(), row.astype(np.float32)):
        np.testing.assert_array_equal(as_half(value), row)
