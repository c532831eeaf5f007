"""Where the ImageNet weights of a backbone are found."""

from __future__ import annotations

import logging
from pathlib import Path

from ..utils.shared import find_shared

logger = logging.getLogger(__name__)

RESNET_URL = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
RESNET_SHARED = "R-50-C4_msra_fp16.pkl"

_URL_PREFIXES = ("detectron2://", "https://", "http://")


def resolve_weights(configured: str, *, shared_name: str = "", url: str = "") -> str:
    """The weights to load: the configured path or address, else the shared file, else `url`.

    Args:
        configured: path or address the user gave (`cfg.MODEL.WEIGHTS` or a backbone's own key); ""
            where none was given.
        shared_name: file name looked for under `find_shared() / "weights"`.
        url: address used where neither is there; "" for none.

    Returns:
        A path or an address that Detectron2's checkpointer opens.

    Raises:
        FileNotFoundError: where the configured path does not exist, or nothing is left to try.
    """
    if configured:
        if not configured.startswith(_URL_PREFIXES) and not Path(configured).is_file():
            raise FileNotFoundError(
                f"weights {configured!r} do not exist: give the path of a file, an address "
                f"starting with one of {_URL_PREFIXES}, or '' for the default"
            )
        return _chosen(configured, "the configuration")
    shared = find_shared()
    if shared is not None and shared_name and (shared / "weights" / shared_name).is_file():
        return _chosen(str(shared / "weights" / shared_name), "the shared folder")
    if url:
        return _chosen(url, "the default address")
    raise FileNotFoundError(
        f"no weights: none configured, {shared_name or 'no file'} not under "
        f"{shared or 'a shared folder ($SPIL_D2_SHARED is not set)'}, and there is no default "
        "address; set the path of the weights in the configuration"
    )


def _chosen(weights: str, source: str) -> str:
    logger.info("backbone weights from %s: %s", source, weights)
    return weights
