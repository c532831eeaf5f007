"""The addresses of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from .pictures import Rendered
from .schemas import ImageId, SearchBody
from .service import BadQuery, NotHere, SearchService, StoredSearch
from .uploads import PictureError, too_many_bytes

_MAX_JSON = 2 * 2**20

router = APIRouter(prefix="/api")


async def _service(request: Request) -> SearchService:
    return request.app.state.service


Service = Annotated[SearchService, Depends(_service)]


async def _found_search(service: Service, search_id: str) -> StoredSearch:
    return service.find_search(search_id)


FoundSearch = Annotated[StoredSearch, Depends(_found_search)]
Side = Literal["320", "1280"]


@router.get("/info")
async def info(service: Service) -> dict:
    """About the index and the limits."""
    return service.info()


@router.get("/pictures")
def list_pictures(
    service: Service,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
    name: Annotated[str, Query(max_length=200)] = "",
) -> dict:
    """Pictures of the index to choose from."""
    return service.list_pictures(offset, limit, name)


@router.get("/pictures/{image_id}/{side}")
async def index_picture(
    service: Service, request: Request, image_id: ImageId, side: Side
) -> Response:
    """A picture of the index as JPEG."""
    rendered = await service.index_picture(image_id, int(side), request.is_disconnected)
    return _image(request, rendered)


@router.post("/uploads", status_code=201)
async def add_upload(service: Service, request: Request) -> dict:
    """Keep the picture that is the body of the request."""
    data = await _read_body(request, service)
    upload = await service.add_upload(data, request.is_disconnected)
    return {"upload": upload.token, "width": upload.width, "height": upload.height}


@router.get("/uploads/{token}/{side}")
async def upload_picture(service: Service, request: Request, token: str, side: Side) -> Response:
    """An uploaded picture as JPEG."""
    rendered = await service.upload_picture(token, int(side), request.is_disconnected)
    return _image(request, rendered)


@router.post("/searches", max_body_size=_MAX_JSON)
async def search(service: Service, request: Request, body: SearchBody) -> dict:
    """Rank the index; the answer's search_id refines it."""
    return await service.search(body, request.is_disconnected)


@router.get("/searches/{search_id}/refined", response_class=EventSourceResponse)
async def refine(service: Service, found: FoundSearch) -> AsyncIterator[ServerSentEvent]:
    """Refined hits as they come: events "hit", and "done" or "failed" at the end."""
    total, done = len(found.hits), 0
    try:
        async for hit in service.refine(found):
            done += 1
            yield ServerSentEvent(event="hit", data={"hit": hit, "done": done, "total": total})
    except (BadQuery, NotHere, PictureError) as error:
        yield ServerSentEvent(event="failed", data={"message": str(error)})
    else:
        yield ServerSentEvent(event="done", data={"total": total})


async def _read_body(request: Request, service: SearchService) -> bytes:
    """The body, read no further than the limit."""
    limit = service.settings.max_upload_bytes
    if int(request.headers.get("content-length", 0)) > limit:
        raise HTTPException(413, too_many_bytes(service.settings))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, too_many_bytes(service.settings))
    return bytes(body)


def _image(request: Request, rendered: Rendered) -> Response:
    headers = {"ETag": rendered.etag, "Cache-Control": "private, max-age=300"}
    if request.headers.get("if-none-match") == rendered.etag:
        return Response(status_code=304, headers=headers)
    return Response(rendered.jpeg, media_type="image/jpeg", headers=headers)
