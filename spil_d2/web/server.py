"""Running the page."""

from __future__ import annotations

import ipaddress
import logging
import socket
import warnings
from dataclasses import replace
from pathlib import Path

import uvicorn
from PIL import Image
from starlette.types import ASGIApp

from ..engine.searcher import Searcher
from .app import create_app
from .connections import connections_of
from .settings import LOOPBACK_NAMES, WebSettings

logger = logging.getLogger(__name__)

# For answers that are under way when the process is to end.
_SHUTDOWN_SECONDS = 3


def serve(
    index_dir: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    cache_gb: float = 0.0,
    settings: WebSettings | None = None,
) -> None:
    """Serve the page of an index until the process is interrupted.

    Args:
        index_dir: what `spil-d2 index` wrote.
        host: address to listen on; any other than a loopback address lets everyone who reaches it
            search and see the indexed pictures.
        port: to listen on.
        cache_gb: see `Searcher.open`.
        settings: limits; the usual ones by default. The names come from `host`.

    Raises:
        ValueError: where `index_dir` is no index.
        OSError: where the port is in use.
    """
    searcher = Searcher.open(index_dir, cache_gb)
    # `WebSettings.max_pixels` is the limit here.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    settings = replace(settings or WebSettings(), host_names=names_of(host))
    app = create_app(searcher, settings=settings)
    if not is_loopback(host):
        logger.warning("everyone who reaches %s:%d can search and see the pictures", host, port)
    with socket.create_server((host, port), family=_family(host)) as listener:
        shown = f"[{host}]" if ":" in host else host
        used = listener.getsockname()[1]
        logger.info("http://%s:%d/ shows the page; Ctrl+C ends it", shown, used)
        uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[listener])


def uvicorn_config(app: ASGIApp, settings: WebSettings) -> uvicorn.Config:
    """How uvicorn runs the page.

    Args:
        app: of `create_app`.
        settings: the same.
    """
    return uvicorn.Config(
        app,
        http=connections_of(settings),
        ws="none",
        # Each request that makes no sense would be a line of a warning.
        log_level="error",
        server_header=False,
        proxy_headers=False,
        # More come only where no connection could make room.
        limit_concurrency=settings.max_connections + 1,
        # So many are accepted at a time: each is looked at before newer ones take its room.
        backlog=max(1, settings.max_connections // 2),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def names_of(host: str) -> frozenset[str]:
    """Names under which a server that listens on `host` may be asked for, in small letters."""
    if is_loopback(host):
        return LOOPBACK_NAMES
    names = {host, socket.gethostname(), socket.getfqdn()}
    return LOOPBACK_NAMES | {name.lower() for name in names}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
