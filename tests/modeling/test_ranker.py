"""The ranker: pooling by hand, the neck's start against numpy, and precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import Backbone
from torch import nn

from spil_d2 import get_cfg
from spil_d2.modeling.ranker import Neck, Ranker, set_last_stride
from spil_d2.modeling.ranker_losses import RankerLosses


class TwoMaps(Backbone):
    """The picture itself at stride 2, and a convolution of it at stride 4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = nn.functional.avg_pool2d(x, 2)
        coarse = self.conv(nn.functional.avg_pool2d(x, 4))
        self.dtypes.append(coarse.dtype)
        return {"fine": fine, "coarse": coarse}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"fine": ShapeSpec(3, stride=2), "coarse": ShapeSpec(5, stride=4)}


def build(**changes) -> Ranker:
    torch.manual_seed(0)
    given = {
        "backbone": TwoMaps(),
        "in_features": ["fine"],
        "pooling": "avg",
        "embedding_dim": 4,
        "dropout": 0.0,
        "num_identities": 3,
        "losses": RankerLosses(
            weights={"softmax": 1.0, "triplet": 1.0, "simclr": 1.0},
            label_smoothing=0.1,
            margin=0.3,
            temperature=0.5,
        ),
        "pixel_mean": [0.0, 0.0, 0.0],
        "pixel_std": [1.0, 1.0, 1.0],
        "frozen_backbone": False,
        "bf16": False,
        **changes,
    }
    return Ranker(**given)


@pytest.fixture
def crops() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8)


def batch(crops: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"crops": crops, "labels": torch.tensor([0, 0, 1, 1, 2, 2])}


def test_poolings(crops) -> None:
    fine = nn.functional.avg_pool2d(crops.float(), 2)
    mean = fine.mean(dim=(2, 3))
    torch.testing.assert_close(build().pool(crops), mean)
    both = mean + fine.flatten(2).max(dim=2).values
    torch.testing.assert_close(build(pooling="avg+max").pool(crops), both)
    gem = (fine**3).mean(dim=(2, 3)) ** (1 / 3)
    torch.testing.assert_close(build(pooling="gem").pool(crops).detach(), gem)


def test_several_maps_are_stacked_at_unit_length(crops) -> None:
    model = build(in_features=["fine", "coarse"])
    vectors = model.pool(crops).detach()
    assert vectors.shape == (6, 8) == (6, model.vector_dim)
    for part in (vectors[:, :3], vectors[:, 3:]):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(6))


def test_embeddings_have_unit_length_and_no_dropout(crops) -> None:
    model = build(dropout=0.9).eval()
    embeddings = model.embed(crops)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))
    assert torch.equal(embeddings, model({"crops": crops}))
    one_by_one = torch.cat([model.embed(one[None]) for one in crops])
    torch.testing.assert_close(one_by_one, embeddings)


def test_a_batch_gives_every_loss_and_gradient(crops) -> None:
    model = build(in_features=["fine", "coarse"], pooling="gem")
    result = model(batch(crops))
    assert set(result) == {"loss_softmax", "loss_triplet", "loss_simclr"}
    sum(result.values()).backward()
    missing = [name for name, one in model.named_parameters() if one.grad is None]
    assert not missing


def test_vectors_stand_for_crops(crops) -> None:
    model = build()
    known = {"vectors": model.pool(crops), "labels": batch(crops)["labels"]}
    for name, loss in model(batch(crops)).items():
        torch.testing.assert_close(model(known)[name], loss)


def test_a_frozen_backbone_has_no_gradient(crops) -> None:
    model = build(in_features=["coarse"], frozen_backbone=True)
    sum(model(batch(crops)).values()).backward()
    assert model.backbone.conv.weight.grad is None
    assert model.neck.fc.weight.grad is not None


def test_frozen_statistics_are_used_and_kept(crops) -> None:
    model = build(frozen_statistics=True, frozen_backbone=True)
    model.neck.norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    model.neck.norm.running_var.fill_(4.0)
    model.train()
    sum(model(batch(crops)).values()).backward()
    vectors = model.pool(crops)
    by_hand = (model.neck.fc(vectors) - torch.tensor([1.0, 2.0, 3.0, 4.0])) / 2
    torch.testing.assert_close(model.neck(vectors), by_hand, rtol=1e-4, atol=1e-5)
    assert model.neck.norm.running_mean.tolist() == [1, 2, 3, 4]
    assert model.neck.norm.weight.grad is not None, "gain and offset are still trained"
    assert model.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_neck_and_losses_are_in_float32_under_autocast(crops, dtype, monkeypatch) -> None:
    model = build(in_features=["coarse"])
    seen: list[torch.dtype] = []
    for module in (model.neck.fc, model.neck.norm, model.classifier):
        module.register_forward_hook(lambda _, given, out: seen.extend([given[0].dtype, out.dtype]))
    with torch.autocast("cpu", dtype):
        losses = model(batch(crops))
    assert model.backbone.dtypes == [dtype], "the backbone is in half precision"
    assert set(seen) == {torch.float32} and len(seen) == 6
    assert {one.dtype for one in losses.values()} == {torch.float32}
    assert all(one.isfinite() for one in losses.values())
    with torch.autocast("cpu", dtype):
        embeddings = model.eval().embed(crops)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(6))


@pytest.mark.parametrize(("frozen", "training"), [(True, True), (True, False), (False, False)])
def test_bf16_is_for_the_backbone_where_it_has_no_gradient(crops, frozen, training) -> None:
    model = build(in_features=["coarse"], bf16=True, frozen_backbone=frozen).train(training)
    assert model.pool(crops).dtype == torch.float32
    assert model.backbone.dtypes == [torch.bfloat16]


def test_bf16_is_off_in_the_backward_pass(crops) -> None:
    model = build(in_features=["coarse"], bf16=True)
    model.pool(crops)
    assert model.backbone.dtypes == [torch.float32]


def samples(count: int, channels: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, channels)) @ rng.normal(size=(channels, channels)) + 3
    return torch.from_numpy(mixed.astype(np.float32))


def test_a_fitted_neck_is_the_centred_cosine() -> None:
    vectors = samples(50, 6)
    neck = Neck(6, 6).eval()
    neck.fit(vectors, whitening=0.0)
    ours = nn.functional.normalize(neck(vectors), dim=1)
    centred = nn.functional.normalize(vectors - vectors.mean(dim=0), dim=1)
    torch.testing.assert_close(ours @ ours.T, centred @ centred.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("whitening", [0.5, 1.0])
def test_a_fitted_neck_shrinks_strong_components(whitening: float) -> None:
    """Against numpy: principal coordinates, each times (variance + f) ** (-whitening / 2)."""
    vectors = samples(80, 6)
    neck = Neck(6, 4).eval()
    neck.fit(vectors, whitening)
    data = vectors.numpy().astype(np.float64)
    _, singular, directions = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    variances = singular[:4] ** 2 / (len(data) - 1)
    weights = (variances + 0.1 * variances.mean()) ** (-whitening / 2)
    expected = (data - data.mean(axis=0)) @ directions[:4].T * weights
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    ours = nn.functional.normalize(neck(vectors), dim=1).detach().double().numpy()
    np.testing.assert_allclose(ours @ ours.T, expected @ expected.T, atol=2e-3)


def test_training_starts_where_the_fitted_neck_is() -> None:
    """Batch statistics of the fitted vectors are the running ones."""
    vectors = samples(400, 6)
    neck = Neck(6, 4)
    neck.fit(vectors, whitening=0.5)
    torch.testing.assert_close(neck(vectors), neck.eval()(vectors), rtol=0.02, atol=0.02)


def test_a_wider_neck_than_its_vectors_starts_with_zeros() -> None:
    vectors = samples(50, 3)
    neck = Neck(3, 5).eval()
    neck.fit(vectors, whitening=0.5)
    output = neck(vectors)
    assert output[:, 3:].abs().max() == 0 < output[:, :3].abs().min(dim=0).values.min()
    assert neck.norm.weight.square().mean().item() == pytest.approx(1.0)


def test_the_classifier_is_remade_and_not_exported(crops) -> None:
    model, other = build(), build()
    assert model.classifier.weight.shape == (3, 4)
    other.classifier.weight.data.fill_(1.0)
    other.reset_classifier(seed=0)
    assert torch.equal(model.classifier.weight, other.classifier.weight)
    other.reset_classifier(seed=1)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert not [name for name in model.embedding_state() if "classifier" in name]
    search = build(num_identities=0).eval()
    search.load_state_dict(model.embedding_state())
    assert torch.equal(search.embed(crops), model.eval().embed(crops))


def test_the_classifier_starts_small() -> None:
    wide = build(num_identities=2000).classifier.weight
    assert wide.std().item() == pytest.approx(0.001, rel=0.05)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="POOLING 'max' is none of"):
        build(pooling="max")
    with pytest.raises(ValueError, match=r"IN_FEATURES \['res5'\].*fine.*coarse"):
        build(in_features=["res5"])


def resnet_cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "Ranker"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    return cfg


@pytest.mark.parametrize(("stride", "side"), [(1, 4), (2, 2)])
def test_last_stride(stride: int, side: int) -> None:
    cfg = resnet_cfg()
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    cfg.MODEL.RANKER.LAST_STRIDE = stride
    model = build_model(cfg).eval()
    with torch.no_grad():
        maps = model.backbone(torch.zeros(1, 3, 64, 64))
    assert maps["res5"].shape == (1, 2048, side, side)
    assert model.backbone.output_shape()["res5"].stride == 64 // side
    assert model.neck.fc.weight.shape == (512, 2048) and model.neck.fc.bias is None
    with pytest.raises(ValueError, match="LAST_STRIDE 4"):
        set_last_stride(model.backbone, 4)


def test_every_loss_needs_a_weight() -> None:
    cfg = resnet_cfg()
    cfg.MODEL.RANKER.LOSSES = ["simclr"]
    with pytest.raises(ValueError, match="LOSS_WEIGHTS"):
        build_model(cfg)
