"""The Milvus backend: vectors in Milvus Lite's local file, or in a Milvus cluster by its address.

The same client, `pymilvus.MilvusClient`, drives both. A segment's vectors are a collection with the
fields `row` (the key), `image_id` (for filters) and `vector`. The directory of the index keeps what
the other backends keep beside their vectors: boxes, ids, and the head that says which segments
count. It is small (about 30 bytes a region) and belongs on storage that all readers of a cluster
share.

A cluster stores the vectors in half precision. Milvus Lite 3.2 has no such field: there the same
values, rounded to half precision, lie in 4 bytes, and again in the file of its search structure.
Milvus Lite lets one process at a time open a file, in which any number of indexes may read it; for
readers in several processes, serve the file (`milvus-lite server`) or use a cluster.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from .segmented import SegmentedIndex
from .segments import VectorSource
from .table import RegionTable
from .vectors import ApproximateVectors, Vectors

FILE_NAME = "vectors.db"
_INSERTED_AT_ONCE = 2000
_READ_AT_ONCE = 4096
# What a Milvus server returns at most.
_MAX_COUNT = 16384
# Below, every vector is compared. Above, a server cuts a collection into pieces with lists of their
# own. Their number is Milvus's own default, and the only one that Milvus Lite takes.
_MIN_REGIONS_FOR_LISTS = 20_000
_NUM_LISTS = 128

_lite_users: Counter[str] = Counter()
_lite_lock = threading.Lock()


class MilvusIndex(SegmentedIndex):
    """Vectors in Milvus collections with inverted lists (IVF_FLAT), one collection a segment."""

    backend: ClassVar[str] = "milvus"

    def __init__(
        self,
        *,
        is_centred: bool = False,
        uri: str | None = None,
        token: str | None = None,
        collections: str | None = None,
        half_precision: bool | None = None,
        probed: float = 0.1,
    ) -> None:
        """
        Args:
            is_centred: see `RegionIndex`.
            uri: address of a server, as http://host:19530; None for Milvus Lite in the file
                `vectors.db` of the index directory.
            token: for that server; it is not kept, so give it to `open`, too.
            collections: what the names of the collections begin with; None for a name of its own.
            half_precision: whether the server stores half-precision vectors; None for yes at an
                address, which Milvus does, and no in a file, which Milvus Lite does not.
            probed: the part of the lists that a query looks into, in (0, 1]; 1 is exact.

        Raises:
            ImportError: pymilvus or milvus-lite is not installed.
            ValueError: `uri` is no address.
        """
        if not 0 < probed <= 1:
            raise ValueError(f"probed is {probed}, not in (0, 1]")
        if uri is not None and not uri.startswith(("http://", "https://", "tcp://")):
            raise ValueError(
                f"uri {uri!r} is no address of a Milvus server, as http://localhost:19530; leave "
                "it out for Milvus Lite in the directory of the index"
            )
        _import_pymilvus()
        self._token = token
        self._client: Any = None
        self._file: Path | None = None
        super().__init__(
            is_centred=is_centred,
            uri=uri,
            collections=collections or f"spil_d2_{uuid.uuid4().hex[:12]}",
            half_precision=uri is not None if half_precision is None else half_precision,
            probed=probed,
        )

    def _settings_of_copy(self) -> dict[str, Any]:
        return {**self._head.settings, "collections": None, "token": self._token}

    def _connect(self) -> None:
        assert self._directory is not None
        pymilvus = _import_pymilvus()
        uri = self._head.settings["uri"]
        if uri is not None:
            self._client = pymilvus.MilvusClient(uri=uri, token=self._token or "")
            return
        file = (self._directory / FILE_NAME).resolve()
        with _lite_lock:
            try:
                self._client = pymilvus.MilvusClient(uri=str(file))
            except pymilvus.MilvusException as error:
                raise RuntimeError(
                    f"{file} cannot be opened ({error}): Milvus Lite lets one process at a time "
                    "open a file; close the index there, or serve the file with `milvus-lite "
                    "server` and give its address"
                ) from error
            self._file = file
            _lite_users[str(file)] += 1

    def close(self) -> None:
        super().close()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._file is not None:
            _release_lite(self._file)
            self._file = None

    def _collection(self, name: str) -> str:
        return f"{self._head.settings['collections']}_{name.replace('-', '_')}"

    def _write_vectors(self, path: Path, name: str, source: VectorSource) -> None:
        collection, count = self._collection(name), source.shape[0]
        self._client.create_collection(
            collection, schema=self._schema(source.shape[1]), consistency_level="Strong"
        )
        ids = np.repeat(source.table.image_ids, source.table.counts).tolist()
        row = 0
        for block in source:
            for start in range(0, len(block), _INSERTED_AT_ONCE):
                some = block[start : start + _INSERTED_AT_ONCE]
                records = [
                    {"row": place, "image_id": ids[place], "vector": vector}
                    for place, vector in enumerate(self._as_stored(some), row)
                ]
                self._client.insert(collection, records)
                row += len(some)
        self._client.flush(collection)
        structure = self._client.prepare_index_params()
        kind, parameters = "FLAT", {}
        if count >= _MIN_REGIONS_FOR_LISTS:
            kind, parameters = "IVF_FLAT", {"nlist": _NUM_LISTS}
        structure.add_index("vector", index_type=kind, metric_type="IP", params=parameters)
        # Milvus Lite has made it when the call returns, and lacks what waiting asks a server for.
        self._client.create_index(collection, structure, sync=self._file is None)

    def _schema(self, dimension: int) -> Any:
        pymilvus = _import_pymilvus()
        kinds = pymilvus.DataType
        half = self._head.settings["half_precision"]
        schema = pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", kinds.INT64, is_primary=True)
        schema.add_field("image_id", kinds.INT64)
        kind = kinds.FLOAT16_VECTOR if half else kinds.FLOAT_VECTOR
        schema.add_field("vector", kind, dim=dimension)
        return schema

    def _as_stored(self, vectors: np.ndarray) -> np.ndarray:
        return vectors if self._head.settings["half_precision"] else vectors.astype(np.float32)

    def _open_vectors(self, path: Path, name: str) -> Vectors:
        collection = self._collection(name)
        if not self._client.has_collection(collection):
            raise FileNotFoundError(
                f"{path}: its vectors, the collection {collection!r}, are missing in "
                f"{self._file or self._head.settings['uri']}"
            )
        self._client.load_collection(collection)
        settings = self._head.settings
        return _CollectionVectors(
            self._client, collection, settings["half_precision"], settings["probed"]
        )

    def _drop_other_vectors(self, kept: Sequence[str]) -> None:
        mine = {self._collection(name) for name in kept}
        start = self._collection("")
        for collection in self._client.list_collections():
            if collection.startswith(start) and collection not in mine:
                self._client.drop_collection(collection)


class _CollectionVectors(ApproximateVectors):
    def __init__(self, client: Any, collection: str, is_half: bool, probed: float) -> None:
        self._client = client
        self._is_half = is_half
        self._collection = collection
        self._count = int(client.get_collection_stats(collection)["row_count"])
        self._num_probed = max(1, round(probed * _NUM_LISTS))

    def __len__(self) -> int:
        return self._count

    @property
    def max_count(self) -> int:
        return min(self._count, _MAX_COUNT)

    def read(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for first in range(start, stop, _READ_AT_ONCE):
            last = min(first + _READ_AT_ONCE, stop)
            found = self._client.query(
                self._collection,
                filter=f"row >= {first} and row < {last}",
                output_fields=["row", "vector"],
                limit=last - first,
            )
            found.sort(key=lambda one: one["row"])
            if [one["row"] for one in found] != list(range(first, last)):
                raise RuntimeError(
                    f"collection {self._collection!r} lacks some of the rows {first} to {last}: it "
                    "was changed by another program; build the index again"
                )
            parts += [as_half(one["vector"]) for one in found]
        return np.stack(parts)

    def nearest(
        self,
        queries: np.ndarray,
        count: int,
        table: RegionTable,
        eligible: np.ndarray | None,
        is_wide: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        answers = self._client.search(
            self._collection,
            data=list(queries.astype(np.float16) if self._is_half else queries),
            filter=_filter(table, eligible),
            limit=count,
            search_params={
                "metric_type": "IP",
                "params": {"nprobe": _NUM_LISTS if is_wide else self._num_probed},
            },
        )
        rows = np.full((len(queries), count), -1, np.int64)
        similarities = np.full((len(queries), count), -np.inf, np.float32)
        for place, answer in enumerate(answers):
            rows[place, : len(answer)] = [one["row"] for one in answer]
            similarities[place, : len(answer)] = [one["distance"] for one in answer]
        return rows, similarities


def _filter(table: RegionTable, eligible: np.ndarray | None) -> str:
    """The shorter one of the two expressions for the eligible images."""
    if eligible is None:
        return ""
    word, images = ("in", eligible) if 2 * eligible.sum() < len(eligible) else ("not in", ~eligible)
    return f"image_id {word} [{','.join(map(str, table.image_ids[images].tolist()))}]"


def as_half(value: Any) -> np.ndarray:
    """(D,) float16 of a vector in an answer: the bytes of a half-precision field, or numbers."""
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        value = value[0]
    if isinstance(value, bytes):
        return np.frombuffer(value, np.float16)
    return np.asarray(value, np.float16)


def _import_pymilvus() -> ModuleType:
    try:
        import milvus_lite  # noqa: F401
        import pymilvus
    except ImportError as error:
        raise ImportError(
            "the index backend 'milvus' needs its client and the embedded server: "
            "pip install pymilvus milvus-lite"
        ) from error
    return pymilvus


def _release_lite(file: Path) -> None:
    """Stop the server of a file when nobody in this process uses it any more."""
    from milvus_lite.server_manager import server_manager_instance

    with _lite_lock:
        _lite_users[str(file)] -= 1
        if not _lite_users[str(file)]:
            server_manager_instance.release_server(str(file))
