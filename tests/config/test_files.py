"""Configuration files: plain values, bases, and nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from spil_d2 import get_cfg
from spil_d2.config.files import ConfigFileError, SafeCfgNode

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_files_mean_what_they_mean_to_detectron2() -> None:
    plain = CfgNode(dict(get_cfg()))
    for name in ("Base-SPIL-tiny.yaml", "CST/tiny_instre_dev.yaml"):
        ours, theirs = get_cfg(), plain.clone()
        ours.merge_from_file(str(CONFIGS / name))
        theirs.merge_from_file(str(CONFIGS / name))
        assert ours == theirs
        assert isinstance(ours.clone(), SafeCfgNode)


def test_a_dump_is_read_again(tmp_path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "Base-SPIL-tiny.yaml"))
    (tmp_path / "c.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "c.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())


def test_bases_are_merged_in_order(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSOLVER: {BASE_LR: 0.25}\n")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert (cfg.SEED, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (2, 0.25, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X: !!python/object/apply:os.mkdir [{made}]", "is no plain YAML.*os.mkdir"),
        ("X: !!python/name:os.system", "is no plain YAML"),
        ("_BASE_: c.yaml", "is its own _BASE_"),
        ("_BASE_: https://127.0.0.1:1/a.yaml", "must be a path"),
        ("_BASE_: 3", "must be a path"),
        ("A: &a [1]\nB: {<<: {A: 1}}", r"merge keys"),
        ("[1, 2]", "must hold keys and values"),
        ("3: 4", "has the key 3, keys are texts"),
        ("NOPE: 1", "does not fit: NOPE: Non-existent config key"),
        ("SOLVER: 3", "does not fit: SOLVER: Type mismatch"),
        ("SOLVER: {MAX_ITER: many}", "does not fit: SOLVER.MAX_ITER: Type mismatch"),
        ("VERSION: 1", "has VERSION 1, must be 2"),
        ("SEED: 2001-01-01", "does not fit"),
        ("OUTPUT_DIR: '{[]: 1}'", "does not fit"),
        ("X: " + "[" * 1500, "is no plain YAML"),
        ("\t- x", "is no plain YAML"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{y}: &{y} [{','.join([f'*{x}'] * 10)}]\n" for x, y in zip("abcdefg", "bcdefgh")
            ),
            "holds more than 100000 values",
        ),
        ("a: &a [*a]", "nested deeper|is no plain YAML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text.replace("{made}", str(tmp_path / "made")))
    with pytest.raises(ConfigFileError, match=rf"c\.yaml.*({message})"):
        get_cfg().merge_from_file(str(path))
    assert not (tmp_path / "made").exists()


def test_the_unsafe_way_is_refused(tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("SEED: 1")
    with pytest.raises(ValueError, match="never read in the unsafe way"):
        get_cfg().merge_from_file(str(tmp_path / "c.yaml"), allow_unsafe=True)
    with pytest.raises(FileNotFoundError, match=r"d\.yaml"):
        get_cfg().merge_from_file(str(tmp_path / "d.yaml"))
