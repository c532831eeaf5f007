"""Public GlobalTrack checkpoints (mmdetection 1.0) as weights of `configs/Base-CST.yaml`.

Two things differ beside the names (CST specification, Section 3.1): mmdetection's class 0 is the
background, ours is the last; and its box deltas are per class, of which the object's are rows 4 to
7. Deltas need no scaling: its standard deviations are our BBOX_REG_WEIGHTS inverted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from ..utils.checkpoints import read_torch
from ..utils.reading import printable
from .checkpoint import AtomicPathManager

_BLOCK = r"backbone\.layer(\d)\.(\d+)\."
_ROI_MODULATOR = "roi_heads.box_pooler.modulator"


_NAMES: tuple[tuple[str, str], ...] = (
    (r"backbone\.conv1\.", "backbone.bottom_up.stem.conv1."),
    (r"backbone\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
    (_BLOCK + r"conv(\d)\.", r"backbone.bottom_up.res<\1+1>.\2.conv\3."),
    (_BLOCK + r"bn(\d)\.", r"backbone.bottom_up.res<\1+1>.\2.conv\3.norm."),
    (_BLOCK + r"downsample\.0\.", r"backbone.bottom_up.res<\1+1>.\2.shortcut."),
    (_BLOCK + r"downsample\.1\.", r"backbone.bottom_up.res<\1+1>.\2.shortcut.norm."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn_lateral<\1+2>."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn_output<\1+2>."),
    (r"rpn_head\.rpn_conv\.", "proposal_generator.rpn_head.conv."),
    (r"rpn_head\.rpn_cls\.", "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn_head\.rpn_reg\.", "proposal_generator.rpn_head.anchor_deltas."),
    (
        r"rpn_modulator\.proj_modulator\.(\d)\.",
        r"correlation_head.modulators.p<\1+2>.query.",
    ),
    (r"rpn_modulator\.proj_out\.(\d)\.", r"correlation_head.modulators.p<\1+2>.out."),
    (r"rcnn_modulator\.proj_z\.", f"{_ROI_MODULATOR}.query."),
    (r"rcnn_modulator\.proj_x\.", f"{_ROI_MODULATOR}.gallery."),
    (r"rcnn_modulator\.proj_out\.", f"{_ROI_MODULATOR}.out."),
    (r"bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc1."),
    (r"bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc2."),
    (r"bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
    (r"bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
)
"""Beginnings of names; `<1+2>` is a sum."""

_COUNTER = ".num_batches_tracked"
"""Of batch normalization in training; a frozen one has none."""


def convert_checkpoint(cfg: CfgNode, source: Path, output: Path) -> int:
    """Convert a file.

    Args:
        cfg: `configs/Base-CST.yaml`, or a configuration with the same parameters.
        source: mmdetection's `epoch_XX.pth`, loaded without running any code in it.
        output: written whole or not at all; MODEL.WEIGHTS takes it.

    Returns:
        How many tensors were written.

    Raises:
        ValueError: if the file is no such checkpoint, or a tensor is left over, missing, or of
            another shape.
    """
    state = read_checkpoint(source)
    try:
        converted = convert_globaltrack(state, expected_shapes(cfg))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    with AtomicPathManager().open(str(output), "wb") as file:
        torch.save({"model": converted}, file)
    return len(converted)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of mmdetection's checkpoint, without the prefix of a parallel model."""
    content = read_torch(path)
    state = content.get("state_dict", content)
    if not (
        isinstance(state, dict)
        and state
        and all(isinstance(k, str) and isinstance(one, Tensor) for k, one in state.items())
    ):
        raise ValueError(f"{path} is no checkpoint of mmdetection: it has no 'state_dict'")
    return {name.removeprefix("module."): one for name, one in state.items()}


def expected_shapes(cfg: CfgNode) -> dict[str, torch.Size]:
    """Name -> shape of everything that a checkpoint of this configuration holds."""
    cfg = cfg.clone()
    cfg.defrost()
    # Shapes need no memory.
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    return {name: one.shape for name, one in model.state_dict().items()}


def convert_globaltrack(
    source: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Rename and rearrange mmdetection's tensors.

    Args:
        source: of `read_checkpoint`.
        expected: of `expected_shapes`.

    Returns:
        Exactly the expected names and shapes.

    Raises:
        ValueError: naming all tensors that are left over, missing, or of another shape.
    """
    converted, unused = {}, []
    for name, tensor in source.items():
        ours = _our_name(name)
        if ours in expected:
            converted[ours] = _rearranged(name, tensor)
        elif not name.endswith(_COUNTER):
            unused.append(name)
    problems = [f"{printable(name):.200} is not used" for name in unused]
    problems += [f"{name} is missing" for name in expected if name not in converted]
    problems += [
        f"{name} has the shape {tuple(one.shape)} instead of {tuple(expected[name])}"
        for name, one in converted.items()
        if one.shape != expected[name]
    ]
    problems += [
        f"{name} is {one.dtype}, not of floating-point numbers"
        for name, one in converted.items()
        if not one.is_floating_point()
    ]
    if problems:
        raise ValueError(
            f"{len(problems)} tensors do not fit GlobalTrack on R50-FPN as configured:\n"
            + "\n".join(problems)
        )
    return converted


def _our_name(name: str) -> str:
    for beginning, ours in _NAMES:
        replaced, count = re.subn(f"^{beginning}", ours, name)
        if count:
            return re.sub(r"<(\d)\+(\d)>", lambda sum_: str(int(sum_[1]) + int(sum_[2])), replaced)
    return ""


def _rearranged(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim == 0:
        return tensor
    if name.startswith("bbox_head.fc_cls."):
        return tensor.flip(0)
    if name.startswith("bbox_head.fc_reg."):
        return tensor[4:8].clone()
    return tensor
