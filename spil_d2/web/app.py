"""The web application: routes, the page's own files, and errors that people understand."""

from __future__ import annotations

import logging
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..engine.searcher import Searcher
from .bodies import BodyMemory
from .routes import router
from .security import Guard
from .service import BadQuery, NotHere, SearchService
from .settings import WebSettings
from .uploads import PictureError

logger = logging.getLogger(__name__)

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_STATUS = {BadQuery: 422, PictureError: 422, NotHere: 404}


def create_app(searcher: Searcher, *, settings: WebSettings | None = None) -> FastAPI:
    """The page and its interface over an index.

    Args:
        searcher: of the index; used by one thread at a time for searching, by several for reading
            pictures.
        settings: limits; the usual ones by default.
    """
    settings = settings or WebSettings()
    app = FastAPI(
        title="spil_d2", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.service = SearchService(searcher, settings)
    app.include_router(router)
    _add_page(app)
    _add_error_handlers(app)
    app.add_middleware(BodyMemory, max_bytes=settings.body_memory)
    app.add_middleware(Guard, host_names=settings.host_names)
    return app


def _add_page(app: FastAPI) -> None:
    """The files of `static/` are read once: no request ever reaches the file system."""
    folder = resources.files(__package__) / "static"
    files = {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file()}

    @app.get("/")
    async def page() -> Response:
        return await serve_file("index.html")

    @app.get("/static/{name}")
    async def serve_file(name: str) -> Response:
        suffix = name[name.rfind(".") :]
        if name not in files or suffix not in _MEDIA_TYPES:
            raise HTTPException(404, "there is no such page")
        headers = {"Cache-Control": "no-cache"}
        return Response(files[name], media_type=_MEDIA_TYPES[suffix], headers=headers)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"message": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [
            f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors()[:5]
        ]
        return JSONResponse({"message": f"not understood: {'; '.join(wrong)}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, __: ClientDisconnect) -> Response:
        # Nobody reads it.
        return Response(status_code=400)

    async def expected(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"message": str(error)}, _STATUS[type(error)])

    for kind in _STATUS:
        app.add_exception_handler(kind, expected)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return JSONResponse({"message": "the server failed: its log says why"}, 500)
