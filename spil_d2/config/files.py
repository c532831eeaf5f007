"""Configuration files: YAML of plain values, with bases, in which nothing can run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..utils.reading import UnreadableFileError, is_printable, read_text, reason_of, shown

_BASE = "_BASE_"
_MAX_BASES = 32
_MAX_DEPTH = 50
_MAX_PATH = 1000
_MAX_VALUES = 100_000
_KEY = re.compile(r"config key: (\S+)$")
# What yacs and Detectron2 raise for a value or key that does not fit.
_MISFITS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    SyntaxError,
    RecursionError,
    MemoryError,
)


class ConfigFileError(UnreadableFileError):
    """A configuration file that cannot be used; the message names the file, and the key."""


class SafeCfgNode(CfgNode):
    """Detectron2's CfgNode, but `merge_from_file` runs nothing that a file says.

    Detectron2's own evaluates `!!python/object` and takes bases from the network.
    """

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Merge a file, after the files that it names as `_BASE_`.

        Args:
            cfg_filename: path of the file.
            allow_unsafe: must be False, as it is by default.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigFileError: it is no YAML of plain values, or a key or value does not fit.
        """
        if allow_unsafe:
            raise ValueError(f"{cfg_filename}: configurations are never read in the unsafe way")
        path = Path(cfg_filename)
        content = read_config_file(path)
        version = content.get("VERSION", self.VERSION)
        if version != self.VERSION:
            raise ConfigFileError(path, f"has VERSION {version!r}, must be {self.VERSION}")
        try:
            self.merge_from_other_cfg(CfgNode(content))
        except _MISFITS as error:
            raise ConfigFileError(path, f"does not fit: {_misfit(error)}") from error

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # yacs merges only nodes of one type, and all below this one are Detectron2's.
        return CfgNode._decode_cfg_value(value)


def _misfit(error: BaseException) -> str:
    """yacs's reason, whose message for a wrong type holds the whole node, the key at its end."""
    text = str(error.args[0]) if error.args else ""
    key = _KEY.search(text)
    if key is None:
        return text[:200] or reason_of(error)
    return f"{key.group(1)}: {text.partition(' with values')[0][:200]}"


def read_config_file(path: Path) -> dict[str, Any]:
    """The content of a file and its bases, later ones over earlier ones.

    Args:
        path: of a YAML file; a `_BASE_` in it is one path or a list of them, relative to the file.

    Raises:
        FileNotFoundError: the file, or a base, is missing.
        ConfigFileError: a file is no YAML of plain values, or bases go in a circle.
    """
    return _with_bases(path, ())


def _with_bases(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    place = path.absolute()
    if place.resolve() in above or len(above) > _MAX_BASES:
        raise ConfigFileError(path, f"is its own {_BASE}, or has more than {_MAX_BASES} above it")
    content = _parse(path)
    bases = content.pop(_BASE, [])
    names = bases if isinstance(bases, list) else [bases]
    merged: dict[str, Any] = {}
    for name in names:
        is_path = isinstance(name, str) and is_printable(name) and 0 < len(name) < _MAX_PATH
        if not is_path or "://" in name:
            raise ConfigFileError(path, f"has the {_BASE} {shown(name)}, must be a path of a file")
        base = place.parent / Path(name).expanduser()
        try:
            inherited = _with_bases(base, (*above, place.resolve()))
        except ConfigFileError as error:
            raise ConfigFileError(path, f"has a {_BASE} that cannot be used: {error}") from error
        _overlay(path, merged, inherited)
    _overlay(path, merged, content)
    return merged


def _parse(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, LookupError) as error:
        reason = " ".join(str(error).split()) or reason_of(error)
        raise ConfigFileError(path, f"is no plain YAML: {reason:.300}") from error
    if not isinstance(content, dict):
        raise ConfigFileError(path, f"must hold keys and values, found {shown(content)}")
    _check_size(path, content)
    return content


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without merge keys, whose expansion cannot be bounded."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                reason = "merge keys (<<) are not allowed; use a _BASE_"
                raise yaml.constructor.ConstructorError(None, None, reason, key.start_mark)


def _check_size(path: Path, content: dict[Any, Any]) -> None:
    """Refuse keys that are no texts, and aliases by which a small file stands for a huge one."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += len(value)
        if depth > _MAX_DEPTH or count > _MAX_VALUES:
            raise ConfigFileError(
                path, f"is nested deeper than {_MAX_DEPTH}, or holds more than {_MAX_VALUES} values"
            )
        if isinstance(value, dict):
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise ConfigFileError(path, f"has the key {shown(odd[0])}, keys are texts")
        items = value.values() if isinstance(value, dict) else value
        waiting += [(one, depth + 1) for one in items if isinstance(one, (dict, list))]


def _overlay(path: Path, target: dict[str, Any], source: dict[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, dict) and key in target:
            if not isinstance(target[key], dict):
                raise ConfigFileError(path, f"has keys below {key}, which is a value in its base")
            _overlay(path, target[key], value)
        else:
            target[key] = value
