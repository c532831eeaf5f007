"""A QueryRCNN with the kernels of classes in it: a detector as any other of Detectron2's.

Shape shorthand: N: classes, K: shape of a kernel, D: width of a descriptor, R: detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from .meta_arch import QueryRCNN

_QUERY_BATCH = 16
"""Kernels that go over an image's maps at once."""


def describe_boxes(model: QueryRCNN, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """Descriptors of boxes on one image: their mean features, of unit length.

    Args:
        model: that encoded the image.
        features: of `model.encode_gallery`, for one image.
        boxes: (R, 4) XYXY in pixels of the network input.

    Returns:
        (R, D) float32.
    """
    maps = [features[name] for name in model.query_levels]
    pooled = model.query_pooler(maps, [Boxes(boxes.to(model.device))])
    return F.normalize(pooled.mean(dim=(2, 3)), dim=1)


def seen_from(centre: Tensor, descriptors: Tensor) -> Tensor:
    """Directions from a centre: (R, D) of unit length, for a centre (D,)."""
    return F.normalize(descriptors - centre, dim=1)


def weighted_scores(p: Tensor, similarities: Tensor, gamma: float) -> Tensor:
    """Scores in the order of p * s ** γ (D26), (R,) in [0, 1].

    The weighted geometric mean (p * s ** γ) ** (1 / (1 + γ)): whatever γ is, a threshold means what
    it means for p and s alone.

    Args:
        p, similarities: (R,) in [0, 1].
        gamma: γ >= 0; p is the score where it is 0.
    """
    return (p * similarities**gamma) ** (1 / (1 + gamma))


@META_ARCH_REGISTRY.register()
class ClassRCNN(nn.Module):
    """Detects N classes, each by its mean kernel (D26), on features encoded once an image.

    The score of a box is `weighted_scores` of p and s: p of the localizer, s in [0, 1] the cosine
    between the descriptor of the box and the class's, both seen from a centre. Features of any two
    things share much of their direction; seen from the mean of ordinary pictures, what differs
    counts.
    """

    @configurable
    def __init__(
        self,
        *,
        detector: QueryRCNN,
        kernels: Tensor,
        descriptors: Tensor,
        centre: Tensor | None = None,
        class_ids: Sequence[int] | None = None,
        gamma: float = 0.0,
        detections_per_image: int = 100,
    ):
        """
        Args:
            detector: the localizer.
            kernels: (N, *K).
            descriptors: (N, D) of unit length, of the classes as they are seen from the centre;
                (N, 0) where `gamma` is 0.
            centre: (D,), taken off the boxes' descriptors; None: 0.
            class_ids: what `pred_classes` are for each class; None: 0 .. N - 1.
            gamma: γ >= 0; 0 leaves the similarity out.
            detections_per_image: best detections of an image over all classes. The heads have
                done the NMS inside each class.

        Raises:
            ValueError: the numbers of classes differ, or γ is negative or has no descriptors.
        """
        super().__init__()
        ids = list(range(len(kernels))) if class_ids is None else list(class_ids)
        centre = descriptors.new_zeros(descriptors.shape[1]) if centre is None else centre
        if not len(kernels) == len(descriptors) == len(ids) > 0:
            raise ValueError(
                f"{len(kernels)} kernels, {len(descriptors)} descriptors and {len(ids)} ids: a "
                "class needs one of each"
            )
        if gamma < 0 or (gamma > 0 and descriptors.shape[1] == 0):
            raise ValueError(
                f"gamma is {gamma} with descriptors of width {descriptors.shape[1]}: use 0, or a "
                "positive number with descriptors"
            )
        if centre.shape != descriptors.shape[1:]:
            raise ValueError(
                f"a centre of shape {tuple(centre.shape)} with descriptors of width "
                f"{descriptors.shape[1]}: they have one width"
            )
        self.detector = detector
        self.gamma = gamma
        self.detections_per_image = detections_per_image
        self.register_buffer("kernels", kernels)
        self.register_buffer("descriptors", descriptors)
        self.register_buffer("centre", centre)
        self.register_buffer("class_ids", torch.tensor(ids, dtype=torch.int64))

    @classmethod
    def from_config(cls, cfg):
        """Room for the kernels of MODEL.CLASS_DETECTOR, which the weights then fill."""
        node = cfg.MODEL.CLASS_DETECTOR
        count = len(node.CLASSES)
        return {
            "detector": QueryRCNN(cfg),
            "kernels": torch.zeros(count, *node.KERNEL_SHAPE),
            "descriptors": torch.zeros(count, node.DESCRIPTOR_WIDTH),
            "centre": torch.zeros(node.DESCRIPTOR_WIDTH),
            "gamma": node.GAMMA,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.kernels.device

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Detect the classes; evaluation mode only.

        Args:
            batched_inputs: one dict an image with "image" (3, H, W) of 0..255 and "height",
                "width" of the wanted output frame.

        Returns:
            One {"instances": Instances} an image in the output frame, best first, with
            `pred_boxes`, `scores`, `pred_classes`, `probabilities` (p) and, where γ > 0,
            `similarities` (s).

        Raises:
            RuntimeError: in training mode; the localizer inside is what is trained.
        """
        if self.training:
            raise RuntimeError("ClassRCNN only detects: call eval(), and train a QueryRCNN")
        return [{"instances": self._detect(one)} for one in batched_inputs]

    def _detect(self, item: dict) -> Instances:
        images = self.detector.preprocess([item["image"]])
        features = self.detector.encode_gallery(images)
        size = len(self.kernels) if self.detector.shared_template else _QUERY_BATCH
        found: list[Instances] = []
        for kernels in self.kernels.split(size):
            found += self.detector.detect(features, kernels, images.image_sizes, with_masks=False)
        merged = self._merge(found, features)
        height, width = item.get("height"), item.get("width")
        if height is None or width is None:
            height, width = images.image_sizes[0]
        return detector_postprocess(merged, height, width)

    def _merge(self, found: list[Instances], features: dict[str, Tensor]) -> Instances:
        """One Instances of all classes from one of each."""
        rows = torch.repeat_interleave(
            torch.arange(len(found), device=self.device),
            torch.tensor([len(one) for one in found], device=self.device),
        )
        boxes = torch.cat([one.pred_boxes.tensor for one in found])
        p = torch.cat([one.scores for one in found])
        merged = Instances(found[0].image_size, pred_boxes=Boxes(boxes), scores=p, probabilities=p)
        merged.pred_classes = self.class_ids[rows]
        if self.gamma > 0:
            shown = seen_from(self.centre, describe_boxes(self.detector, features, boxes))
            merged.similarities = (shown * self.descriptors[rows]).sum(dim=1).clamp(0, 1)
            merged.scores = weighted_scores(p, merged.similarities, self.gamma)
        best = torch.argsort(merged.scores, descending=True, stable=True)
        return merged[best[: self.detections_per_image]]
