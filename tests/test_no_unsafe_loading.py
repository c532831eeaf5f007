"""Nothing that reads a file can run what is in it: found in the syntax trees of all programs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("spil_d2", "tools", "demo", "datasets")
# The one reader of pickles, which builds arrays, numbers and texts alone.
RESTRICTED = ROOT / "spil_d2" / "utils" / "checkpoints.py"
ALLOWED_THERE = {"pickle.UnpicklingError", "pickle._Unpickler"}
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal"}
UNSAFE_MODULES |= {"shelve", "jsonpickle", "pandas"}
# Detectron2's own readers unpickle what they are given, or look no closer at pictures.
UNSAFE_NAMES = {"DetectionCheckpointer", "read_image", "loadmat", "unsafe_load", "full_load"}
SAFE_NAMES = {
    "DetectionCheckpointer": RESTRICTED,
    "loadmat": ROOT / "spil_d2/data/datasets/matlab.py",
}


def unsafe_calls(path: Path, source: str) -> list[str]:
    """Lines of a module that could run code of a file that is read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        reason = ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            reason = _import(node, path)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if node.value.id in UNSAFE_MODULES and not _is_allowed(name, path):
                reason = name
        elif isinstance(node, ast.Call):
            reason = _call(node)
        if reason:
            found.append(f"{path}:{node.lineno}: {reason}")
    return found


def _is_allowed(name: str, path: Path) -> bool:
    return path == RESTRICTED and name in ALLOWED_THERE


def _import(node: ast.Import | ast.ImportFrom, path: Path) -> str:
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for one in node.names:
        root = (module or one.name).split(".")[0]
        if root in UNSAFE_MODULES and path != RESTRICTED:
            return f"import of {root}"
        if one.name in UNSAFE_NAMES and SAFE_NAMES.get(one.name) != path:
            return f"import of {one.name}"
    return ""


def _call(node: ast.Call) -> str:
    text = ast.unparse(node.func)
    given = {one.arg: one.value for one in node.keywords}

    def is_constant(name: str, value: bool) -> bool:
        return isinstance(given.get(name), ast.Constant) and given[name].value is value

    if text in ("eval", "exec", "compile", "__import__"):
        return text
    if text.endswith("torch.load") and not is_constant("weights_only", True):
        return "torch.load without weights_only=True"
    if text == "np.load" and not is_constant("allow_pickle", False):
        return "np.load without allow_pickle=False"
    if "allow_pickle" in given and not is_constant("allow_pickle", False):
        return "allow_pickle"
    if "allow_unsafe" in given and not is_constant("allow_unsafe", False):
        return "allow_unsafe"
    if text in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        if loader is None or ast.unparse(loader) not in ("yaml.SafeLoader", "_PlainLoader"):
            return "yaml.load without a safe loader"
    return ""


def test_no_program_can_run_what_a_file_says() -> None:
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += unsafe_calls(path, path.read_text(encoding="utf-8"))
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load(path)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "cfg.merge_from_file(path, allow_unsafe=True)",
        "eval(text)",
        "from detectron2.checkpoint import DetectionCheckpointer",
        "from detectron2.data.detection_utils import read_image",
        "from scipy.io import loadmat",
    ],
)
def test_what_is_unsafe_is_found(source: str) -> None:
    assert unsafe_calls(Path("a.py"), source)
