"""What a training depends on; one that is a step of something larger: begun, resumed, finished."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm

from ..utils.artifacts import file_sha256, write_json_atomic

_NOTE = "run.json"


def kept_keys(cfg, names: Sequence[str]) -> dict:
    """What of a configuration a training's result depends on, for a fingerprint.

    Device, precision, workers, periods and places are not among it. MODEL.WEIGHTS counts by the
    content of the file, wherever that lies; what is to be downloaded is left out.

    Args:
        cfg: any configuration of the project.
        names: its nodes that count.
    """
    cfg = cfg.clone()
    cfg.defrost()
    weights = Path(cfg.MODEL.WEIGHTS)
    content = file_sha256(weights) if weights.is_file() else ""
    cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = cfg.MODEL.BF16 = ""
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.SPIL.LOG_PERIOD = cfg.RANKER.LOG_PERIOD = 0
    cfg.SEARCH.NUM_WORKERS, cfg.SEARCH.INDEX_DIR = 0, ""
    keys = {name: cfg.get(name).dump() for name in names}
    return {"seed": cfg.SEED, "weights": content, "keys": keys}


def begin_run(output: Path, made_of: str, result: str, resume: bool) -> bool:
    """Whether the training in a folder is finished; notes, or checks, what it is made of.

    Args:
        output: folder of this training.
        made_of: fingerprint of all that the result depends on.
        result: name of the file that is written last.
        resume: go on with what lies there; else it is forgotten.

    Raises:
        ValueError: the folder holds a training of something else.
    """
    note = output / _NOTE
    known = json.loads(note.read_text())["fingerprint"] if resume and note.is_file() else None
    # Nobody writes before all have read.
    comm.synchronize()
    if known is not None and known != made_of:
        raise ValueError(
            f"{output} holds a training of other data or keys (fingerprint {known}, this one has "
            f"{made_of}); start anew without resume, or use another folder"
        )
    if known is None and comm.is_main_process():
        output.mkdir(parents=True, exist_ok=True)
        # Else a resumed run would take up the earlier one if this one dies early.
        for name in (result, "last_checkpoint"):
            (output / name).unlink(missing_ok=True)
        write_json_atomic(note, {"fingerprint": made_of})
    comm.synchronize()
    return (output / result).is_file()
