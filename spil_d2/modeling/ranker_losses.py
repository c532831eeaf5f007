"""Losses of the ranker on a batch of labelled embeddings, in float32.

Shape shorthand: N crops of a batch, D numbers an embedding, C identities or clusters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor, nn
from torch.nn import functional as F

LOSSES = ("softmax", "triplet", "simclr")


def nt_xent(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """MSC-SimCLR: NT-Xent whose positives are the other crops of the same cluster.

    The mean over the pairs (i, p) of one label of
    -log(e^(s_ip / t) / (e^(s_ip / t) + sum_n e^(s_in / t))), n running over the other labels. It is
    softplus(logsumexp_n(s_in / t) - s_ip / t), which needs N x N numbers where a table of pairs
    and negatives would need N^2 times N.

    Args:
        embeddings: (N, D), of any length.
        labels: (N,) int.
        temperature: t.

    Returns:
        (); 0 where no label occurs twice.
    """
    units = F.normalize(embeddings.float(), dim=1)
    similarities = units @ units.T / temperature
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # The lowest number and not -inf, whose logsumexp has no gradient in a row of one cluster.
    floor = torch.finfo(similarities.dtype).min
    negatives = similarities.masked_fill(same, floor).logsumexp(dim=1, keepdim=True)
    losses = F.softplus(negatives - similarities)
    return (losses * positive).sum() / positive.sum().clamp(min=1)


class BatchHardTriplet(nn.Module):
    """Each crop against its farthest positive and nearest negative, on unit vectors.

    The mean over all crops of max(d_ap - d_an + margin, 0), d Euclidean.
    """

    def __init__(self, margin: float):
        super().__init__()
        self.miner = BatchHardMiner()
        self.loss = TripletMarginLoss(margin=margin, reducer=MeanReducer())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """(N, D) of any length, (N,) -> (); 0 where no crop has a positive and a negative."""
        embeddings = embeddings.float()
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


class RankerLosses(nn.Module):
    """The weighted losses of a configuration, by name."""

    def __init__(
        self,
        *,
        weights: Mapping[str, float],
        label_smoothing: float,
        margin: float,
        temperature: float,
    ):
        """
        Args:
            weights: name among `LOSSES` -> weight.
            label_smoothing: part of a softmax target that is spread over all C classes.
            margin: of the triplets, in distances of unit vectors.
            temperature: of NT-Xent.

        Raises:
            ValueError: for an unknown name, or none.
        """
        super().__init__()
        if not weights or set(weights) - set(LOSSES):
            raise ValueError(f"MODEL.RANKER.LOSSES {list(weights)}: use some of {LOSSES}")
        self.weights = dict(weights)
        self.label_smoothing = label_smoothing
        self.temperature = temperature
        self.triplet = BatchHardTriplet(margin)

    @property
    def needs_classifier(self) -> bool:
        return "softmax" in self.weights

    def forward(
        self, embeddings: Tensor, logits: Tensor | None, labels: Tensor
    ) -> dict[str, Tensor]:
        """
        Args:
            embeddings: (N, D) of the neck, after dropout.
            logits: (N, C), or None without "softmax".
            labels: (N,) int64 in [0, C).

        Returns:
            "loss_NAME" -> ().
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            losses = {
                name: weight * self._one(name, embeddings, logits, labels)
                for name, weight in self.weights.items()
            }
        return {f"loss_{name}": loss for name, loss in losses.items()}

    def _one(self, name: str, embeddings: Tensor, logits: Tensor | None, labels: Tensor) -> Tensor:
        if name == "triplet":
            return self.triplet(embeddings, labels)
        if name == "simclr":
            return nt_xent(embeddings, labels, self.temperature)
        assert logits is not None, "softmax needs a classifier"
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)
