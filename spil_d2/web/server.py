"""Running the page."""

from __future__ import annotations

import ipaddress
import logging
import socket
import warnings
from pathlib import Path

import uvicorn
from PIL import Image

from ..engine.searcher import Searcher
from .app import create_app
from .settings import LOOPBACK_NAMES, WebSettings

logger = logging.getLogger(__name__)


def serve(index_dir: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the page of an index until the process is interrupted.

    Args:
        index_dir: what `spil-d2 index` wrote.
        host: address to listen on; any other than a loopback address lets everyone who reaches it
            search and see the indexed pictures.
        port: to listen on.

    Raises:
        ValueError: where `index_dir` is no index.
        OSError: where the port is in use.
    """
    searcher = Searcher.open(index_dir)
    # `WebSettings.max_pixels` is the limit here.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    app = create_app(searcher, settings=WebSettings(host_names=names_of(host)))
    if not is_loopback(host):
        logger.warning("everyone who reaches %s:%d can search and see the pictures", host, port)
    with socket.create_server((host, port), family=_family(host)) as listener:
        shown = f"[{host}]" if ":" in host else host
        logger.info("http://%s:%d/ shows the page; Ctrl+C ends it", shown, port)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False))
        server.run(sockets=[listener])


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
