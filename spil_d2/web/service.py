"""What the routes do: resolve a request's pictures, search, refine, one at a time."""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
import numpy as np
from cachetools import LRUCache
from starlette.requests import ClientDisconnect

from ..data.pictures import UnreadablePictureError, read_picture
from ..engine.searcher import QUERY_SIDE, QueryImage, Searcher, check_box
from ..structures import SearchHit
from .pictures import Pictures, Rendered
from .schemas import ReferenceBody, SearchBody, hit_to_json
from .settings import WebSettings
from .uploads import PictureError, Upload, UploadStore, decode_picture

T = TypeVar("T")
Gone = Callable[[], Awaitable[bool]]
"""Whether nobody waits for the answer any more."""


class NotHere(LookupError):
    """Something that the server does not have (any more), in words for the user."""


class BadQuery(ValueError):
    """A query that makes no sense, in words for the user."""


@dataclass(frozen=True)
class StoredSearch:
    """A search whose boxes can be refined.

    Attributes:
        references: what was searched with.
        hits: what was found.
    """

    references: tuple[ReferenceBody, ...]
    hits: tuple[SearchHit, ...]


class SearchService:
    """The state of one server: its index, the uploads and the last searches.

    The model runs in one thread at a time and pictures are decoded in a few others, so that many
    clients wait for each other instead of for memory. Those who have gone when it is their turn
    are passed over (`ClientDisconnect`).
    """

    def __init__(self, searcher: Searcher, settings: WebSettings) -> None:
        self.settings = settings
        self.uploads = UploadStore(settings)
        self._searcher = searcher
        self._pictures = Pictures(searcher, settings)
        self._files = sorted(searcher.images(), key=lambda one: one[1])
        self._searches: LRUCache = LRUCache(settings.max_searches)
        self._model = anyio.CapacityLimiter(1)
        self._decoders = anyio.CapacityLimiter(settings.thumbnail_workers)
        # Strangers' pictures may take long: those of the index do not wait for them.
        self._upload_decoders = anyio.CapacityLimiter(settings.thumbnail_workers)
        self._threads = anyio.CapacityLimiter(1 + 2 * settings.thumbnail_workers)

    def info(self) -> dict:
        """What the page has to know before the first search."""
        settings, about = self.settings, self._searcher.info()
        return {
            **{name: about[name] for name in ("engine", "backend", "images", "regions")},
            "unreadable": len(about["unreadable"]),
            "calibrated": about["calibrated"],
            "can_refine": self._searcher.can_refine,
            # Another index at the same address must not get what a browser kept for this one.
            "key": hashlib.sha256(f"{about['folder']} {about['engine']}".encode()).hexdigest()[:16],
            "limits": {
                "bytes": settings.max_upload_bytes,
                "k": settings.max_k,
                "pictures": settings.max_pictures,
                "boxes": settings.max_boxes,
            },
        }

    async def add_upload(self, data: bytes, gone: Gone) -> Upload:
        """See `UploadStore.add`."""
        return await self._in_turn(self._upload_decoders, lambda: self.uploads.add(data), gone)

    def upload(self, token: str) -> Upload:
        """An uploaded picture.

        Raises:
            NotHere: where it had to make room, or never was.
        """
        try:
            return self.uploads.get(token)
        except KeyError:
            raise NotHere("an uploaded picture is gone: choose it once more") from None

    async def upload_picture(self, token: str, side: int, gone: Gone) -> Rendered:
        """An uploaded picture, shrunk."""
        upload = self.upload(token)
        shrink = functools.partial(self._pictures.of_upload, upload, side)
        return await self._in_turn(self._upload_decoders, shrink, gone)

    async def index_picture(self, image_id: int, side: int, gone: Gone) -> Rendered:
        """A picture of the index, shrunk."""

        def shrink() -> Rendered:
            return self._of_index(image_id, lambda one: self._pictures.of_index(one, side))

        return await self._in_turn(self._decoders, shrink, gone)

    def list_pictures(self, offset: int, limit: int, name: str) -> dict:
        """Pictures of the index whose path contains `name`, in the order of their paths."""

        wanted = name.casefold()
        found = [one for one in self._files if wanted in one[1].casefold()]
        rows = []
        for image_id, path in found[offset : offset + limit]:
            width, height = self._searcher.image_size(image_id)
            rows.append({"image_id": image_id, "image": path, "width": width, "height": height})
        return {"total": len(found), "pictures": rows}

    async def search(self, body: SearchBody, gone: Gone) -> dict:
        """Rank the index.

        Raises:
            BadQuery, NotHere, PictureError: in words for the user.
        """
        self._check(body)
        started = time.perf_counter()

        def run() -> tuple[tuple[SearchHit, ...], list[dict]]:
            queries = [self._query_image(one) for one in body.references]
            excluded = frozenset(body.excluded)
            hits = self._searcher.search(queries, body.k, combine=body.combine, excluded=excluded)
            return tuple(hits), [self._to_json(hit) for hit in hits]

        hits, answer = await self._in_turn(self._model, run, gone)
        search_id = secrets.token_urlsafe(16)
        self._searches[search_id] = StoredSearch(tuple(body.references), hits)
        seconds = round(time.perf_counter() - started, 3)
        return {"search_id": search_id, "seconds": seconds, "hits": answer}

    def find_search(self, search_id: str) -> StoredSearch:
        """One of the last searches.

        Raises:
            NotHere: where it is too old or never was.
            BadQuery: where this index has no adapted localizer.
        """
        if not self._searcher.can_refine:
            raise BadQuery("refining needs an adapted localizer: run `spil-d2 adapt INDEX`")
        try:
            return self._searches[search_id]
        except KeyError:
            raise NotHere("this search is too old to refine: search again") from None

    async def refine(self, search: StoredSearch) -> AsyncIterator[dict]:
        """Its hits with refined boxes, each as soon as it is there; others search in between.

        Raises:
            NotHere, PictureError: in words for the user.
        """
        start = functools.partial(self._start_refining, search)
        hits = await self._in_turn(self._model, start)
        while (hit := await self._in_turn(self._model, lambda: self._next(hits))) is not None:
            yield hit

    def _start_refining(self, search: StoredSearch) -> Iterator[SearchHit]:
        queries = [self._query_image(one) for one in search.references]
        return iter(self._searcher.refine(queries, search.hits))

    def _next(self, hits: Iterator[SearchHit]) -> dict | None:
        hit = next(hits, None)
        return None if hit is None else self._to_json(hit)

    def _check(self, body: SearchBody) -> None:
        settings = self.settings
        if body.k > settings.max_k:
            raise BadQuery(f"{body.k} results are too many: {settings.max_k} are the most")
        if len(body.references) > settings.max_pictures:
            raise BadQuery(
                f"{len(body.references)} query pictures are too many: {settings.max_pictures} are "
                "the most"
            )
        most = max(len(one.boxes) for one in body.references)
        if most > settings.max_boxes:
            raise BadQuery(
                f"{most} boxes on a picture are too many: {settings.max_boxes} are the most"
            )

    def _query_image(self, reference: ReferenceBody) -> QueryImage:
        if reference.upload is not None:
            picture = decode_picture(self.upload(reference.upload).data, QUERY_SIDE)
        else:
            picture = self._of_index(
                reference.image_id or 0,
                lambda image_id: read_picture(self._searcher.image_path(image_id), QUERY_SIDE),
            )
        wanted = reference.boxes or [(0.0, 0.0, picture.width, picture.height)]
        try:
            for box in wanted:
                check_box(box, picture.width, picture.height)
        except ValueError as error:
            raise BadQuery(str(error)) from error
        height, width = picture.pixels.shape[:2]
        scaled = picture.from_displayed(np.array(wanted)).clip(0, (width, height, width, height))
        boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in scaled.tolist())
        return QueryImage(picture.pixels, boxes, reference.image_id)

    def _of_index(self, image_id: int, read: Callable[[int], T]) -> T:
        try:
            return read(image_id)
        except KeyError:
            raise NotHere(f"the index has no picture {image_id}") from None
        except (OSError, UnreadablePictureError) as error:
            raise PictureError(_lost(f"picture {image_id}", error)) from error

    def _to_json(self, hit: SearchHit) -> dict:
        return hit_to_json(hit, *self._searcher.image_size(hit.image_id))

    async def _in_turn(
        self, limiter: anyio.CapacityLimiter, call: Callable[[], T], gone: Gone | None = None
    ) -> T:
        """Call in a thread; without `gone`, whoever awaits it is cancelled when the client goes."""
        async with limiter:
            if gone is not None and await gone():
                raise ClientDisconnect
            return await anyio.to_thread.run_sync(call, limiter=self._threads)


def _lost(what: str, error: Exception) -> str:
    """Without the path, which is nobody's business on the network."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or "damaged"
    return (
        f"{what} of the index cannot be read any more ({reason}): if files were moved or changed, "
        "run `spil-d2 index` again and start the page anew"
    )
