"""A batch in parts against the batch at once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from spil_d2 import get_cfg
from spil_d2.engine.accumulation import (
    AccumulatingTrainer,
    accumulate_gradients,
    seed_torch,
)
from spil_d2.engine.presets import resolve_config

TINY = Path(__file__).parents[2] / "configs" / "Base-SPIL-tiny.yaml"
ROIS = 8


@pytest.fixture(scope="module")
def model() -> nn.Module:
    cfg = get_cfg()
    cfg.merge_from_file(str(TINY))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BF16", "off"])
    assert cfg.SPIL.BOX_NORMALIZER == "positive"
    cfg.MODEL.EFFICIENTNET.VARIANT = "lite0"
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 40
    # One positive RoI for an image with its own kernel, and as many RoIs for every map.
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = ROIS
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = 1 / ROIS
    resolve_config(cfg)
    torch.manual_seed(0)
    return build_model(cfg).train()


@pytest.fixture(autouse=True)
def sampling_without_chance(monkeypatch) -> None:
    """Samples are the first ones, so that they do not depend on the order of the images."""
    monkeypatch.setattr(
        torch, "randperm", lambda n, device=None, **_: torch.arange(n, device=device)
    )


def _item(seed: int, negative: bool = True) -> dict:
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((96, 128))
    instances.gt_boxes = Boxes(torch.tensor([[30.0, 20.0, 90.0 - seed, 80.0 - seed]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    instances.gt_weights = torch.tensor([0.5 + 0.1 * seed])
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, 25:75, 35:85] = True
    instances.gt_masks = BitMasks(mask)
    item = {
        "image": torch.randint(0, 255, (3, 96, 128), generator=generator),
        "instances": instances,
        "query_crops": torch.randint(0, 255, (2, 3, 64, 64), generator=generator),
        "query_boxes": torch.tensor([[8.0, 8.0, 56.0, 56.0]] * 2),
    }
    if negative:
        item["negative_crops"] = item["query_crops"].flip(3)
        item["negative_boxes"] = item["query_boxes"]
    return item


def _step(
    model: nn.Module, batch: list[dict], parts: int, normalizer: str = "positive"
) -> tuple[dict, dict]:
    model.zero_grad()
    with EventStorage():
        losses = accumulate_gradients(model, batch, parts, normalizer)
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients


def _check_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("negative", [True, False])
def test_parts_give_the_gradients_of_the_whole_batch(model, parts: int, negative: bool) -> None:
    batch = [_item(seed, negative) for seed in range(4)]
    model.zero_grad()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    got_losses, gradients = _step(model, batch, parts)
    _check_equal({k: v.detach() for k, v in losses.items()}, got_losses)
    _check_equal(expected, gradients)
    assert any(one.abs().max() > 1e-3 for one in expected.values())


@pytest.mark.parametrize("normalizer", ["all", "positive"])
def test_an_item_without_a_foreign_query_counts_as_one_map(
    model, normalizer: str, monkeypatch
) -> None:
    """Maps 2 + 2 against 1 + 1: the parts weigh 2/3 and 1/3, or 1/2 each by their boxes.

    The first part has the first and the third item."""
    for part in (model.proposal_generator, model.roi_heads.box_predictor):
        monkeypatch.setattr(part, "box_normalizer", normalizer)
    batch = [_item(0), _item(2, negative=False), _item(1), _item(3, negative=False)]
    whole, _ = _step(model, batch, 1, normalizer)
    parts, gradients = _step(model, batch, 2, normalizer)
    _check_equal(whole, parts)
    # By hand: each part's own losses, weighted.
    boxed = {"loss_mask", *({"loss_rpn_loc", "loss_box_reg"} if normalizer == "positive" else ())}
    model.zero_grad()
    with EventStorage():
        for part, share in ((batch[::2], 2 / 3), (batch[1::2], 1 / 3)):
            losses = model(part)
            sum((0.5 if name in boxed else share) * one for name, one in losses.items()).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    _check_equal(expected, gradients)


def _curve(model: nn.Module, parts: int, precision: torch.dtype) -> list[float]:
    """Total losses of three steps on two items, which begin with the same weights."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    batches = [[_item(0), _item(1)]] * 3
    trainer = AccumulatingTrainer(model, batches, optimizer, parts, "positive", precision=precision)
    losses = []
    with EventStorage() as storage:
        for trainer.iter in range(len(batches)):
            trainer.run_step()
            losses.append(storage.latest()["total_loss"][0])
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return losses


def test_parts_and_mixed_precision_give_the_same_loss_curve(model) -> None:
    """Exactly the same in parts, as all maps have equally many RoIs; bfloat16 has 8 bits."""
    seen = set()
    fc = model.roi_heads.box_head.fc1
    handle = fc.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    try:
        whole = _curve(model, 1, torch.float32)
        in_parts = _curve(model, 2, torch.float32)
        assert seen == {torch.float32}
        mixed = _curve(model, 2, torch.bfloat16)
    finally:
        handle.remove()
    assert seen == {torch.float32, torch.bfloat16}
    assert whole[-1] < 0.95 * whole[0]
    assert in_parts == pytest.approx(whole, rel=1e-4)
    assert mixed != in_parts
    assert mixed == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(("world", "parts"), [(1, 4), (2, 2), (4, 1)])
def test_a_process_with_parts_samples_what_as_many_processes_sample(
    monkeypatch, world: int, parts: int
) -> None:
    seeds = {}
    monkeypatch.setattr(comm, "get_world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        for part in range(parts):
            seed_torch(7, 3, part, parts)
            seeds[rank + world * part] = torch.initial_seed()
    assert seeds == {virtual: 7 * 1_000_003 + 3 * 4 + virtual for virtual in range(4)}


class Line(nn.Module):
    """loss = mean of (w x - y)^2 over the items."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.sizes: list[int] = []

    def forward(self, batch: list[dict]) -> dict[str, torch.Tensor]:
        self.sizes.append(len(batch))
        x, y = (torch.tensor([one[name] for one in batch]) for name in ("x", "y"))
        return {"loss": ((self.weight * x - y) ** 2).mean()}


def test_processes_exchange_gradients_once(tmp_path) -> None:
    distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(Line())
        exchanged = []

        def count(_, bucket):
            exchanged.append(bucket.buffer().clone())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        model.register_comm_hook(None, count)
        accumulate_gradients(model, [{"x": float(x), "y": 1.0} for x in (1, 2, 3, 4)], 4)
    finally:
        distributed.destroy_process_group()
    assert [one.tolist() for one in exchanged] == [[25.0]]
    assert float(model.module.weight.grad) == 25.0


def test_one_step_of_the_trainer_by_hand() -> None:
    batch = [{"x": float(x), "y": 1.0} for x in (1, 2, 3, 4)]
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    # A gradient left over from before must not count.
    model.weight.grad = torch.tensor(1e6)
    trainer = AccumulatingTrainer(model, [batch], optimizer, parts=2)
    trainer.iter = trainer.start_iter = 0
    with EventStorage() as storage:
        trainer.run_step()
        assert storage.latest()["total_loss"][0] == pytest.approx((1 + 9 + 25 + 49) / 4)
    assert model.sizes == [2, 2]
    # d/dw mean((2 x - 1)^2) = mean(2 x (2 x - 1)) = (2 + 12 + 30 + 56) / 4 = 25
    assert float(model.weight.detach()) == pytest.approx(2 - 0.01 * 25)
