"""The web page over an index: `spil-d2 serve INDEX`."""

from .app import create_app
from .server import serve
from .settings import WebSettings

__all__ = ["WebSettings", "create_app", "serve"]
