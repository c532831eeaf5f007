"""Weights: PyTorch's files, mmdetection's, and the pickles of Detectron2's zoo."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spil_d2.engine.checkpoint import load_weights
from spil_d2.engine.globaltrack_weights import convert_globaltrack, read_checkpoint
from spil_d2.utils.checkpoints import SafeCheckpointer

from .base import Format
from .codecs import change_torch, pickle_change

_NAMES = ("rpn_head.rpn_cls.weight", "bbox_head.fc_cls.weight", "bbox_head.fc_reg.bias")
_EXPECTED = {
    "proposal_generator.rpn_head.objectness_logits.weight": torch.Size([2, 3]),
    "roi_heads.box_predictor.cls_score.weight": torch.Size([2, 3]),
    "roi_heads.box_predictor.bbox_pred.bias": torch.Size([4]),
}


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


def _checkpoint(folder: Path) -> None:
    state = _Net().state_dict()
    torch.save({"model": state, "iteration": 7, "__author__": "us"}, folder / "model.pth")
    torch.save(state, folder / "weights.pth")


def _load_checkpoint(folder: Path) -> None:
    net = _Net()
    SafeCheckpointer(net).load(str(folder / "model.pth"))
    load_weights(net, folder / "weights.pth")
    net.stem(torch.zeros(1, 3))


def _mmdetection(folder: Path) -> None:
    shapes = ((2, 3), (2, 3), (8,))
    state = {name: torch.ones(shape) for name, shape in zip(_NAMES, shapes)}
    meta = {"epoch": 12, "config": "model = dict(type='QG_RCNN')"}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, folder / "epoch_12.pth")


def _load_mmdetection(folder: Path) -> None:
    path = folder / "epoch_12.pth"
    state = read_checkpoint(path)
    try:
        convert_globaltrack(state, _EXPECTED)
    except ValueError as error:
        # As `convert_checkpoint` does around it.
        error.args = (f"{path}: {error}",)
        raise


def _zoo() -> dict[str, Any]:
    arrays = {"stem.weight": np.ones((2, 3), np.float32), "stem.bias": np.zeros(2, np.float16)}
    return {"model": arrays, "__author__": "somebody", "matching_heuristics": True}


def _caffe() -> dict[str, Any]:
    return {"blobs": {"stem.weight": np.ones((2, 3)), "lr": np.float32(3)}, "cfg": "x: 1"}


def _zoo_files(folder: Path) -> None:
    (folder / "zoo.pkl").write_bytes(pickle.dumps(_zoo(), 2))
    (folder / "caffe.pkl").write_bytes(pickle.dumps({"blobs": _zoo()["model"]}, 2))


def _load_zoo(folder: Path) -> None:
    for name in ("zoo.pkl", "caffe.pkl"):
        net = _Net()
        SafeCheckpointer(net).load(str(folder / name))
        net.stem(torch.zeros(1, 3))


WEIGHTS = (
    Format(
        "checkpoint",
        _checkpoint,
        {"model.pth": change_torch, "weights.pth": change_torch},
        _load_checkpoint,
    ),
    Format("globaltrack", _mmdetection, {"epoch_12.pth": change_torch}, _load_mmdetection),
    Format(
        "zoo_pickle",
        _zoo_files,
        {"zoo.pkl": pickle_change(_zoo), "caffe.pkl": pickle_change(_caffe)},
        _load_zoo,
    ),
)
