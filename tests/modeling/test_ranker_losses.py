"""The ranker's losses against pytorch-metric-learning and loops over listed pairs."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss

from spil_d2.modeling.ranker_losses import BatchHardTriplet, RankerLosses, nt_xent

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3])


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


def naive_nt_xent(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    units = torch.nn.functional.normalize(embeddings, dim=1).tolist()
    similar = [[sum(a * b for a, b in zip(x, y)) / temperature for y in units] for x in units]
    losses = []
    for i in range(len(units)):
        others = sum(math.exp(similar[i][n]) for n in range(len(units)) if labels[n] != labels[i])
        for p in range(len(units)):
            if p != i and labels[p] == labels[i]:
                own = math.exp(similar[i][p])
                losses.append(-math.log(own / (own + others)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_nt_xent_is_the_loop_and_the_library(embeddings, temperature: float) -> None:
    ours = nt_xent(embeddings, LABELS, temperature)
    assert ours.item() == pytest.approx(naive_nt_xent(embeddings, LABELS, temperature), rel=1e-5)
    theirs = NTXentLoss(temperature=temperature)(embeddings, LABELS)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(ours, embeddings, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs, embeddings)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 4, 5, 6], [0] * 7])
def test_nt_xent_without_positives_or_negatives(embeddings, labels: list[int]) -> None:
    loss = nt_xent(embeddings, torch.tensor(labels), 0.05)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.isfinite().all()


def test_a_closer_positive_is_cheaper() -> None:
    """Worked: cosines 1 and 0 at temperature 1 cost log(1 + e^-1); 0 and 0 cost log 2."""
    near = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    assert nt_xent(near, labels, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)))
    far = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert nt_xent(far, labels, 1.0).item() == pytest.approx(math.log(2))


def test_triplets_are_the_hardest_of_each_crop(embeddings) -> None:
    units = torch.nn.functional.normalize(embeddings.detach(), dim=1)
    distances = torch.cdist(units, units)
    expected = []
    for i, label in enumerate(LABELS):
        positives = [distances[i, j] for j in range(7) if j != i and LABELS[j] == label]
        negatives = [distances[i, j] for j in range(7) if LABELS[j] != label]
        if positives:
            expected.append(max(max(positives) - min(negatives) + 0.3, torch.tensor(0.0)))
    loss = BatchHardTriplet(0.3)(embeddings, LABELS)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-6)


def test_equal_crops_have_a_gradient(embeddings) -> None:
    """Identities with fewer crops than K repeat them."""
    same = embeddings[[0, 0, 1, 1]]
    BatchHardTriplet(0.3)(same, torch.tensor([0, 0, 1, 1])).backward()
    assert embeddings.grad.isfinite().all()


def losses(**weights: float) -> RankerLosses:
    return RankerLosses(weights=weights, label_smoothing=0.1, margin=0.3, temperature=0.5)


def test_losses_are_weighted_and_softmax_is_smoothed(embeddings) -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    result = losses(softmax=2.0, simclr=0.5)(embeddings, logits, LABELS)
    assert list(result) == ["loss_softmax", "loss_simclr"]
    target = torch.full((7, 4), 0.1 / 4)
    target[torch.arange(7), LABELS] += 0.9
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(result["loss_softmax"], 2 * expected)
    torch.testing.assert_close(result["loss_simclr"], 0.5 * nt_xent(embeddings, LABELS, 0.5))


@pytest.mark.parametrize("weights", [{}, {"softmax": 1.0, "circle": 1.0}])
def test_unknown_losses_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="MODEL.RANKER.LOSSES.*softmax.*triplet.*simclr"):
        losses(**weights)
