"""The ranker of CST: crops of regions -> identity embeddings.

Shape shorthand: N crops of H x W pixels, V numbers of a pooled vector, D of an embedding, C
identities or clusters.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from .ranker_losses import RankerLosses

POOLINGS = ("avg", "avg+max", "gem")
NECK_INITS = ("xavier", "pca")
CLASSIFIER = "classifier."
"""What the names of the weights begin with that belong to one training only."""

_CLASSIFIER_STD = 0.001
_GEM_FLOOR = 1e-6
# Least variance of a principal component, as a part of the mean: below it is mostly noise.
_VARIANCE_FLOOR = 0.1


class Neck(nn.Module):
    """Fully connected without bias, then batch normalization; always in float32."""

    def __init__(self, in_channels: int, dimension: int):
        """
        Args:
            in_channels: V.
            dimension: D.
        """
        super().__init__()
        self.fc = nn.Linear(in_channels, dimension, bias=False)
        self.norm = nn.BatchNorm1d(dimension)
        nn.init.xavier_uniform_(self.fc.weight)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, V) -> (N, D) float32."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self.norm(self.fc(vectors.float()))

    @torch.no_grad()
    def fit(self, vectors: Tensor, whitening: float) -> None:
        """Start as the centred principal components of vectors.

        Component d, of variance w_d, comes out as itself times (w_d + f) ** (-whitening / 2), f a
        tenth of the mean variance; the fully connected layer makes it, and the normalization holds
        its mean, its variance and the scale. Outputs beyond V components start at 0.

        Args:
            vectors: (M, V), M > 1, of crops that are trained on.
            whitening: 0 keeps the cosines of the centred vectors, 1 whitens them.
        """
        self.reset()
        data = vectors.double().to(self.fc.weight.device)
        variances, directions = torch.linalg.eigh(torch.cov(data.T).reshape(data.shape[1], -1))
        count = min(len(self.fc.weight), len(variances))
        variances = variances.flip(0)[:count].clamp(min=0)
        floored = variances + _VARIANCE_FLOOR * variances.mean()
        scale = floored.rsqrt()
        self.fc.weight[:count] = (directions.flip(1)[:, :count] * scale).T.float()
        gains = torch.zeros(len(self.fc.weight), dtype=torch.float64, device=data.device)
        gains[:count] = variances.sqrt() * floored ** (-whitening / 2)
        outputs = data @ self.fc.weight.double().T
        self.norm.running_mean.copy_(outputs.mean(dim=0))
        self.norm.running_var.copy_(outputs.var(dim=0))
        # Of mean square 1, as a fresh normalization's outputs are.
        self.norm.weight.copy_(gains / gains.square().mean().sqrt().clamp(min=1e-12))

    def reset(self) -> None:
        """Xavier weights and a normalization that has seen nothing."""
        nn.init.xavier_uniform_(self.fc.weight)
        self.norm.reset_parameters()


@META_ARCH_REGISTRY.register()
class Ranker(nn.Module):
    """Backbone, pooling, neck, and in training a classifier; `embed` is what a search uses."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        pooling: str,
        embedding_dim: int,
        dropout: float,
        num_identities: int,
        losses: RankerLosses,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        frozen_backbone: bool,
        frozen_statistics: bool = False,
        bf16: bool,
    ):
        """
        Args:
            backbone: crops -> maps.
            in_features: maps that are pooled and stacked.
            pooling: "avg", "avg+max" or "gem".
            embedding_dim: D.
            dropout: probability, after the neck, in training.
            num_identities: C, width of the classifier; 0 for none, as in a search.
            losses: of a batch.
            pixel_mean, pixel_std: of a channel, in the order of the input crop.
            frozen_backbone: run the backbone without gradients.
            frozen_statistics: training uses and keeps the neck's running mean and variance.
            bf16: run a frozen backbone, and any backbone at inference, in bfloat16.

        Raises:
            ValueError: for an unknown pooling or map.
        """
        super().__init__()
        shapes = backbone.output_shape()
        _check_maps(pooling, in_features, list(shapes))
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.in_features = tuple(in_features)
        self.pooling = pooling
        self.vector_dim = sum(shapes[name].channels for name in in_features)
        if pooling == "gem":
            self.gem_power = nn.Parameter(torch.full((), 3.0))
        self.neck = Neck(self.vector_dim, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.num_identities = num_identities
        self.classifier = None
        if num_identities and losses.needs_classifier:
            self.classifier = nn.Linear(embedding_dim, num_identities, bias=False)
            self.reset_classifier(seed=0)
        self.losses = losses
        self.frozen_backbone = frozen_backbone
        self.frozen_statistics = frozen_statistics
        self.bf16 = bf16
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.RANKER
        if len(node.LOSSES) != len(node.LOSS_WEIGHTS):
            raise ValueError(
                f"MODEL.RANKER.LOSS_WEIGHTS {node.LOSS_WEIGHTS}: give one for each of the LOSSES "
                f"{node.LOSSES}"
            )
        backbone = build_backbone(cfg)
        set_last_stride(backbone, node.LAST_STRIDE)
        return {
            "backbone": backbone,
            "in_features": node.IN_FEATURES,
            "pooling": node.POOLING,
            "embedding_dim": node.EMBEDDING_DIM,
            "dropout": node.DROPOUT,
            "num_identities": node.NUM_IDENTITIES,
            "losses": RankerLosses(
                weights=dict(zip(node.LOSSES, node.LOSS_WEIGHTS)),
                label_smoothing=node.LABEL_SMOOTHING,
                margin=node.MARGIN,
                temperature=node.TEMPERATURE,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "frozen_backbone": cfg.MODEL.BACKBONE.FREEZE_AT >= 5,
            "frozen_statistics": node.FREEZE_STATISTICS,
            "bf16": cfg.MODEL.BF16 == "on",
        }

    def train(self, mode: bool = True) -> Ranker:
        """As any module's; frozen statistics stay in evaluation mode."""
        super().train(mode)
        if self.frozen_statistics:
            self.neck.norm.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def pool(self, crops: Tensor) -> Tensor:
        """Pooled vectors of the backbone.

        Args:
            crops: (N, 3, H, W) of 0..255, H and W multiples of the backbone's divisibility.

        Returns:
            (N, V) float32.
        """
        images = (crops.to(self.device).float() - self.pixel_mean) / self.pixel_std
        images = images.contiguous(memory_format=torch.channels_last)
        with contextlib.ExitStack() as stack:
            if self.frozen_backbone:
                stack.enter_context(torch.no_grad())
            # The backward pass of bfloat16 convolutions is slower than float32's on CPUs.
            if self.bf16 and (self.frozen_backbone or not self.training):
                stack.enter_context(torch.autocast(self.device.type, torch.bfloat16))
            maps = self.backbone(images)
        with torch.autocast(self.device.type, enabled=False):
            vectors = [self._pool_map(maps[name].float()) for name in self.in_features]
            if len(vectors) == 1:
                return vectors[0]
            return torch.cat([F.normalize(one, dim=1) for one in vectors], dim=1)

    def embed(self, crops: Tensor) -> Tensor:
        """Embeddings of crops as in `pool`: (N, D) float32, of unit length."""
        return self.embed_vectors(self.pool(crops))

    def embed_vectors(self, vectors: Tensor) -> Tensor:
        """Embeddings of pooled vectors (N, V): (N, D) float32, of unit length."""
        assert not self.training, "embeddings are for evaluation mode"
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(self.neck(vectors.to(self.device)), dim=1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | Tensor:
        """Losses of a batch, or, at inference, its embeddings.

        Args:
            batch: "crops" (N, 3, H, W) of 0..255 or, where they are known, their pooled "vectors"
                (N, V); in training also "labels" (N,) int64 in [0, C).

        Returns:
            In training "loss_NAME" -> (); else (N, D) of unit length.
        """
        if not self.training:
            return self.embed(batch["crops"])
        vectors = batch["vectors"].to(self.device) if "vectors" in batch else None
        if vectors is None:
            vectors = self.pool(batch["crops"])
        embeddings = self.dropout(self.neck(vectors))
        logits = None
        if self.classifier is not None:
            with torch.autocast(self.device.type, enabled=False):
                logits = self.classifier(embeddings)
        return self.losses(embeddings, logits, batch["labels"].to(self.device))

    @torch.no_grad()
    def reset_classifier(self, seed: int) -> None:
        """A fresh classifier, N(0, .001): the same one in every process."""
        if self.classifier is not None:
            generator = torch.Generator().manual_seed(seed)
            fresh = torch.randn(self.classifier.weight.shape, generator=generator)
            self.classifier.weight.copy_(_CLASSIFIER_STD * fresh)

    def embedding_state(self) -> dict[str, Tensor]:
        """The weights that outlive a training: all but the classifier's."""
        return {
            name: value
            for name, value in self.state_dict().items()
            if not name.startswith(CLASSIFIER)
        }

    def _pool_map(self, features: Tensor) -> Tensor:
        """(N, C, h, w) float32 -> (N, C)."""
        if self.pooling == "gem":
            powered = features.clamp(min=_GEM_FLOOR) ** self.gem_power
            return powered.mean(dim=(2, 3)) ** (1 / self.gem_power)
        mean = features.mean(dim=(2, 3))
        return mean if self.pooling == "avg" else mean + features.amax(dim=(2, 3))


def set_last_stride(backbone: Backbone, stride: int) -> None:
    """Let a ResNet's res5 keep res4's resolution (stride 1); nothing else has such a stage.

    The weights stay as they are, and so does the dilation of 1.
    """
    if stride not in (1, 2):
        raise ValueError(f"MODEL.RANKER.LAST_STRIDE {stride} is neither 1 nor 2")
    if stride == 2 or not isinstance(backbone, ResNet) or not hasattr(backbone, "res5"):
        return
    first = backbone.res5[0]
    for convolution in (first.conv1, first.conv2, first.shortcut):
        convolution.stride = (1, 1)
    backbone._out_feature_strides["res5"] = backbone._out_feature_strides["res4"]


def _check_maps(pooling: str, in_features: Sequence[str], known: Sequence[str]) -> None:
    if pooling not in POOLINGS:
        raise ValueError(f"MODEL.RANKER.POOLING {pooling!r} is none of {POOLINGS}")
    if not in_features or set(in_features) - set(known):
        raise ValueError(
            f"MODEL.RANKER.IN_FEATURES {list(in_features)}: use maps among {list(known)}, "
            "which the backbone gives"
        )
