"""A checkpoint with mmdetection's names against the formulas of the specification, Section 3.1."""

from __future__ import annotations

import re

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from spil_d2 import get_cfg
from spil_d2.engine.globaltrack_weights import (
    convert_globaltrack,
    expected_shapes,
    read_checkpoint,
)

from ..programs import ROOT, load_tool

CONFIG = ROOT / "configs" / "Base-CST.yaml"
WIDTH, FC = 8, 12
SMALL = ["MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.FPN.OUT_CHANNELS", str(WIDTH)]
SMALL += ["MODEL.ROI_BOX_HEAD.FC_DIM", str(FC)]
LEVELS = ("p2", "p3", "p4", "p5", "p6")


def _head_shapes(width: int, fc: int, anchors: int = 3) -> dict[str, tuple[int, ...]]:
    """Everything but the backbone: official names and shapes of weights, and of their biases."""
    weights: dict[str, tuple[int, ...]] = {}
    for i, channels in enumerate((256, 512, 1024, 2048)):
        weights[f"neck.lateral_convs.{i}.conv"] = (width, channels, 1, 1)
        weights[f"neck.fpn_convs.{i}.conv"] = (width, width, 3, 3)
    weights["rpn_head.rpn_conv"] = (width, width, 3, 3)
    weights["rpn_head.rpn_cls"] = (anchors, width, 1, 1)
    weights["rpn_head.rpn_reg"] = (4 * anchors, width, 1, 1)
    for i in range(5):
        weights[f"rpn_modulator.proj_modulator.{i}"] = (width, width, 7, 7)
        weights[f"rpn_modulator.proj_out.{i}"] = (width, width, 1, 1)
    weights["rcnn_modulator.proj_z"] = (width, width, 3, 3)
    weights["rcnn_modulator.proj_x"] = (width, width, 3, 3)
    weights["rcnn_modulator.proj_out"] = (width, width, 1, 1)
    weights["bbox_head.shared_fcs.0"] = (fc, width * 49)
    weights["bbox_head.shared_fcs.1"] = (fc, fc)
    weights["bbox_head.fc_cls"] = (2, fc)
    weights["bbox_head.fc_reg"] = (8, fc)
    shapes = {f"{name}.weight": shape for name, shape in weights.items()}
    return {**shapes, **{f"{name}.bias": shape[:1] for name, shape in weights.items()}}


def _resnet(width_per_group: int) -> ResNet:
    return ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=width_per_group).eval()


@pytest.fixture(scope="module")
def source() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    backbone = _resnet(4).state_dict()
    state = {f"backbone.{k}": v for k, v in backbone.items() if not k.startswith("fc.")}
    for name, one in state.items():
        if one.ndim == 1 and not name.endswith("running_var"):
            one.add_(0.1 * torch.randn(one.shape, generator=generator))
    for name, shape in _head_shapes(WIDTH, FC).items():
        fan_in = torch.Size(shape[1:]).numel()
        state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
    return state


@pytest.fixture(scope="module")
def checkpoint(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("mmdetection") / "epoch_12.pth"
    meta = {"epoch": 12, "config": "model = dict(type='QG_RCNN')"}
    torch.save({"meta": meta, "state_dict": source, "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def model(checkpoint):
    output = checkpoint.parent / "converted.pth"
    count = load_tool("convert_globaltrack").main(
        ["--checkpoint", str(checkpoint), "--output", str(output), *SMALL]
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(output), *SMALL])
    model = build_model(cfg).eval()
    assert count == len(model.state_dict())
    result = DetectionCheckpointer(model).load(str(output))
    assert isinstance(result, dict)
    return model


def _conv(source: dict[str, Tensor], name: str, x: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(x, source[f"{name}.weight"], source[f"{name}.bias"], padding=padding)


def _linear(source: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, source[f"{name}.weight"], source[f"{name}.bias"])


def _pyramid(source: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """P2 to P6 with torchvision's ResNet and the specification's FPN."""
    resnet = _resnet(4)
    names = {k.removeprefix("backbone."): v for k, v in source.items() if "backbone." in k}
    resnet.load_state_dict(names, strict=False)
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(image))))
    laterals = []
    for i in range(4):
        x = resnet.get_submodule(f"layer{i + 1}")(x)
        laterals.append(_conv(source, f"neck.lateral_convs.{i}.conv", x))
    for i in (2, 1, 0):
        laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], scale_factor=2, mode="nearest")
    maps = [_conv(source, f"neck.fpn_convs.{i}.conv", y, 1) for i, y in enumerate(laterals)]
    return [*maps, maps[3][:, :, ::2, ::2]]


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def queries() -> Tensor:
    return torch.randn(2, WIDTH, 7, 7, generator=torch.Generator().manual_seed(2))


def _close(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=1e-4 * scale, rtol=1e-3)


def test_the_pyramid_is_torchvisions_resnet_with_the_specifications_fpn(model, source, image):
    with torch.no_grad():
        maps = model.backbone(image)
        for name, expected in zip(LEVELS, _pyramid(source, image), strict=True):
            assert expected.std() > 1e-3
            _close(maps[name], expected)


def test_the_query_guided_rpn_is_the_formula(model, source, queries) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = {
        f"p{i + 2}": torch.randn(1, WIDTH, 24 >> i, 32 >> i, generator=generator) for i in range(5)
    }
    with torch.no_grad():
        modulated, _ = model.correlation_head(maps, queries)
        head = model.proposal_generator.rpn_head
        logits, deltas = head([modulated[name] for name in LEVELS])
        for i, name in enumerate(LEVELS):
            for q, query in enumerate(queries):
                m = _conv(source, f"rpn_modulator.proj_modulator.{i}", query[None])
                x = _conv(source, f"rpn_modulator.proj_out.{i}", maps[name] * m)
                hidden = F.relu(_conv(source, "rpn_head.rpn_conv", x, 1))
                _close(logits[i][q : q + 1], _conv(source, "rpn_head.rpn_cls", hidden))
                _close(deltas[i][q : q + 1], _conv(source, "rpn_head.rpn_reg", hidden))


def test_the_query_guided_rcnn_is_the_formula(model, source, queries) -> None:
    regions = torch.randn(5, WIDTH, 7, 7, generator=torch.Generator().manual_seed(4))
    owners = torch.tensor([0, 0, 1, 1, 1])
    heads = model.roi_heads
    with torch.no_grad():
        modulated = heads.box_pooler.modulator(regions, queries, owners)
        logits, deltas = heads.box_predictor(heads.box_head(modulated))
        for r, owner in enumerate(owners):
            z = _conv(source, "rcnn_modulator.proj_z", queries[owner][None], 1)
            x = _conv(source, "rcnn_modulator.proj_x", regions[r][None], 1)
            hidden = _conv(source, "rcnn_modulator.proj_out", x * z).flatten(1)
            for i in range(2):
                hidden = F.relu(_linear(source, f"bbox_head.shared_fcs.{i}", hidden))
            background, thing = _linear(source, "bbox_head.fc_cls", hidden)[0]
            _close(logits[r], torch.stack([thing, background]))
            # Rows 0 to 3 are the background's, which the official converter keeps by mistake.
            object_deltas = _linear(source, "bbox_head.fc_reg", hidden)[0, 4:]
            _close(deltas[r], object_deltas)


def test_deltas_are_decoded_with_mmdetections_standard_deviations(model) -> None:
    transform = model.roi_heads.box_predictor.box2box_transform
    delta = torch.tensor([[1.0, -2.0, 0.5, 1.5]])
    box = torch.tensor([[10.0, 20.0, 50.0, 100.0]])
    dx, dy, dw, dh = (delta[0] * torch.tensor([0.1, 0.1, 0.2, 0.2])).tolist()
    x, y = 30 + dx * 40, 60 + dy * 80
    w, h = 40 * torch.tensor(dw).exp(), 80 * torch.tensor(dh).exp()
    expected = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]])
    torch.testing.assert_close(transform.apply_deltas(delta, box), expected)


def test_anchors_are_centred_on_their_cells(model) -> None:
    """mmdetection's legacy anchor [-14, 17] of P2, whose last pixel counts, is [-14, 18]."""
    anchors = model.proposal_generator.anchor_generator([torch.zeros(1, 1, 1, 1)] * 5)[0].tensor
    assert anchors[1].tolist() == [-14, -14, 18, 18]
    ratios = (anchors[:, 3] - anchors[:, 1]) / (anchors[:, 2] - anchors[:, 0])
    torch.testing.assert_close(ratios, torch.tensor([0.5, 1.0, 2.0]))


def test_a_converted_model_localizes(model) -> None:
    generator = torch.Generator().manual_seed(5)
    pictures = [torch.randint(0, 255, (3, 96, size), generator=generator) for size in (128, 160)]
    boxes = torch.tensor([[20.0, 10.0, 90.0, 80.0], [30.0, 20.0, 150.0, 90.0]])
    with torch.no_grad():
        kernels = model.encode_query(pictures, boxes)
        images = model.preprocess([pictures[0]])
        found = model.detect(model.encode_gallery(images), kernels, images.image_sizes)
    assert kernels.shape == (2, WIDTH, 7, 7)
    assert all(0 < len(one) <= 20 and torch.isfinite(one.scores).all() for one in found)


def test_every_name_and_shape_of_the_full_network_is_used() -> None:
    with torch.device("meta"):
        backbone = _resnet(64).state_dict()
        source = {f"backbone.{k}": v for k, v in backbone.items() if not k.startswith("fc.")}
        for name, shape in _head_shapes(256, 1024).items():
            source[name] = torch.empty(shape)
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    expected = expected_shapes(cfg)
    converted = convert_globaltrack(source, expected)
    assert {name: one.shape for name, one in converted.items()} == expected
    extra = [n for n in expected if "modulator" in n]
    assert sum(expected[name].numel() for name in extra) == 16_057_600 + 328_960 + 1_245_952


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("rpn_modulator.proj_out.3.bias"), "modulators.p5.out.bias is missing"),
        (lambda s: s.update({"mask_head.x": torch.zeros(1)}), "mask_head.x is not used"),
        (lambda s: s.update({"neck.fpn_convs.7.conv.bias": torch.zeros(1)}), "7.conv.bias is not"),
        (
            lambda s: s.update({"bbox_head.fc_reg.weight": torch.zeros(4, FC)}),
            r"bbox_pred.weight has the shape \(0, 12\) instead of \(4, 12\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(source, change, message) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(SMALL)
    changed = dict(source)
    change(changed)
    with pytest.raises(ValueError, match=message):
        convert_globaltrack(changed, expected_shapes(cfg))


class _Code:
    def __reduce__(self):
        return (re.compile, ("x",))


def test_files_that_are_no_checkpoint_are_refused(tmp_path, source) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "meta": _Code()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="code.pth holds more than tensors"):
        read_checkpoint(tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth holds a list"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({f"module.{n}": one for n, one in source.items()}, tmp_path / "parallel.pth")
    assert set(read_checkpoint(tmp_path / "parallel.pth")) == set(source)


def test_the_tool_names_a_missing_file(tmp_path, capsys) -> None:
    arguments = ["--checkpoint", str(tmp_path / "no.pth"), "--output", str(tmp_path / "x.pth")]
    with pytest.raises(SystemExit):
        load_tool("convert_globaltrack").main(arguments)
    assert "no.pth" in capsys.readouterr().err and not (tmp_path / "x.pth").exists()
