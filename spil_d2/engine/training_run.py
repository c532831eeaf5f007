"""What a training depends on; one that is a step of something larger: begun, resumed, finished; and
what it leaves behind when a step fails."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from detectron2.engine import DefaultTrainer
from detectron2.utils import comm

from ..data.build import PairDataset
from ..data.pair_mapper import PairMapper
from ..structures import Pair
from ..utils.artifacts import file_sha256, write_json_atomic

logger = logging.getLogger(__name__)

NAN_BATCH = "nan_batch.json"
"""In the folder of a training whose loss was not finite: the batch of that iteration."""

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


def begin_run(
    output: Path, made_of: str, result: str, resume: bool, parts: Sequence[str] = ()
) -> bool:
    """Whether the training in a folder is finished; notes, or checks, what it is made of.

    Args:
        output: folder of this training.
        made_of: fingerprint of all that the result depends on.
        result: name of the file that is written last.
        resume: go on with what lies there; else it is forgotten.
        parts: names of other files of the training, each written whole, that a resumed one uses.

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
        for name in (result, "last_checkpoint", *parts):
            (output / name).unlink(missing_ok=True)
        write_json_atomic(note, {"fingerprint": made_of})
    comm.synchronize()
    return (output / result).is_file()


@contextlib.contextmanager
def noted_failures(trainer: DefaultTrainer, batch: Callable[[], list[dict]]) -> Iterator[None]:
    """A step that fails leaves what is needed to look into it.

    A loss that is not finite leaves `NAN_BATCH` in OUTPUT_DIR: iteration, seed, the checkpoint that
    `--resume` repeats the way from, whether the weights are finite, and the batch. The death of one
    of the loader's processes gets a note on what to do.

    Args:
        trainer: whose step is run inside.
        batch: gives the items of this iteration, those of all processes, JSON-like.
    """
    try:
        yield
    except FloatingPointError as error:
        path = Path(trainer.cfg.OUTPUT_DIR) / NAN_BATCH
        is_finite = all(bool(one.isfinite().all()) for one in trainer.model.state_dict().values())
        last = path.with_name("last_checkpoint")
        facts = {
            "iteration": trainer.iter,
            "seed": trainer.cfg.SEED,
            "checkpoint": last.read_text().strip() if last.is_file() else None,
            "weights_are_finite": is_finite,
            "items": batch(),
        }
        if comm.is_main_process():
            write_json_atomic(path, facts)
        logger.error("the loss is not finite at iteration %d: see %s", trainer.iter, path)
        advice = "look at their labels" if is_finite else "the weights are not finite either"
        error.add_note(
            f"the pictures and boxes of this batch are in {path}: {advice}, or lower "
            "SOLVER.BASE_LR and start anew; --resume repeats the batch"
        )
        raise
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            error.add_note(
                f"a process that loads data has died at iteration {trainer.iter}, perhaps for want "
                f"of memory: DATALOADER.NUM_WORKERS is {trainer.cfg.DATALOADER.NUM_WORKERS}, fewer "
                "need less; --resume goes on from the last checkpoint"
            )
        raise


def named_pairs(dataset: PairDataset, mapper: PairMapper, rows: range) -> list[dict]:
    """What some items of a stream show: "query_id", "file_name" and "box" of the target, and
    "support", and where there is a foreign query "negative_query_id" and "negative_support", as
    [file name, box]. Boxes are XYXY_ABS in pixels of the stored pictures.
    """
    return [_named(dataset.pair(row), mapper) for row in rows]


def _named(pair: Pair, mapper: PairMapper) -> dict:
    file_name, box = mapper.locate(pair.query_id, pair.target)
    support = [mapper.locate(pair.query_id, one) for one in pair.support]
    found = {"query_id": pair.query_id, "file_name": file_name, "box": box, "support": support}
    if pair.negative_id is not None:
        crops = [mapper.locate(pair.negative_id, one) for one in pair.negative_support]
        found |= {"negative_query_id": pair.negative_id, "negative_support": crops}
    return found
