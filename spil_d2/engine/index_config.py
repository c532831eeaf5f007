"""The configuration that an index of a folder is made with, and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..config import get_cfg
from ..utils.artifacts import fingerprint
from ..utils.reading import UnreadableFileError

DEFAULT_ENGINE = "tiny"
_PACKAGE = Path(__file__).resolve().parents[1]
_ENGINES = "search"
# What is done with an index, who makes it and how precisely, but not what it holds.
_NOT_OF_THE_INDEX = (
    "TOP_K RANK_LISTS MIN_SIMILARITY INDEX_DIR NUM_WORKERS RERANK RERANK_SHARE RERANK_POWER "
    "OUT_FEATURES CENTRED QE KRECIPROCAL"
).split()


def build_index_config(
    engine: str | None = None, config_file: str | Path | None = None, opts: Sequence[str] = ()
) -> CfgNode:
    """The configuration of a new index.

    Args:
        engine: name of a file in `configs/search/`; None is `DEFAULT_ENGINE`, whose weights come
            with a package.
        config_file: a yaml of the user's own instead.
        opts: KEY VALUE ... on top.

    Raises:
        ValueError: for an unknown engine, listing the known ones, or an engine beside a file.
        FileNotFoundError: there is no such file.
    """
    if engine is not None and config_file is not None:
        raise ValueError(f"engine {engine} and {config_file}: give one of them")
    cfg = get_cfg()
    if config_file is not None and not Path(config_file).is_file():
        raise FileNotFoundError(f"{config_file} is no configuration file")
    cfg.merge_from_file(str(config_file or _engine_file(engine or DEFAULT_ENGINE)))
    cfg.MODEL.DEVICE = default_device()
    cfg.merge_from_list(list(opts))
    return cfg


def engine_names() -> list[str]:
    """The engines that can be asked for by name."""
    return sorted(path.stem for path in (config_folder() / _ENGINES).glob("*.yaml"))


def _engine_file(engine: str) -> Path:
    known = engine_names()
    if engine not in known:
        raise ValueError(f"there is no engine {engine!r}: use one of {', '.join(known)}")
    return config_folder() / _ENGINES / f"{engine}.yaml"


def config_folder() -> Path:
    """The project's `configs/`, in an installed package or a checkout."""
    folders = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
    for folder in folders:
        if (folder / _ENGINES).is_dir():
            return folder
    raise FileNotFoundError(f"the configurations are in none of {', '.join(map(str, folders))}")


def save_config(cfg: CfgNode, path: Path) -> None:
    """Write a configuration as plain yaml."""
    path.write_text(cfg.dump(), encoding="utf-8")


def load_config(path: Path) -> CfgNode:
    """Read what `save_config` wrote; nothing in the file can run code.

    Raises:
        ValueError: naming the file, where it is no configuration.
    """
    try:
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
    except UnreadableFileError as error:
        raise ValueError(f"{path} is no configuration of an index: {error.reason}") from error
    # An index may have been made on another machine.
    cfg.MODEL.DEVICE = default_device()
    return cfg


def engine_fingerprint(cfg: CfgNode) -> str:
    """Of everything that the regions of a picture depend on."""
    model = cfg.MODEL
    return fingerprint(
        {
            "search": _plain(cfg.SEARCH),
            "backbone": [model.BACKBONE.NAME, _plain(model.EFFICIENTNET), _plain(model.DENSENET)],
            "pixels": [cfg.INPUT.FORMAT, model.PIXEL_MEAN, model.PIXEL_STD],
        }
    )


def default_device() -> str:
    """The accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _plain(node: CfgNode) -> dict[str, Any]:
    return {
        key: _plain(value) if isinstance(value, CfgNode) else value
        for key, value in node.items()
        if key not in _NOT_OF_THE_INDEX
    }
