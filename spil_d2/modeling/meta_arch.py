"""QueryRCNN: an R-CNN that looks for what a query shows (SPIL, Section 3.1; CST's localizer).

Shape shorthand: B: gallery images, Q: queries, n: crops of a query, S: side of a crop in pixels,
C: channels, K: shape of a kernel, which the correlation head decides: (C,) or (C, s, s).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from .correlation_head import CorrelationHead, build_correlation_head
from .modulated_pooler import ModulatedMap

X_POOLS = ("roi", "full")


def has_negative(item: dict) -> bool:
    """Whether a training item carries a foreign query, for which its image is null ground truth."""
    return "negative_crops" in item or "negative_vectors" in item


@META_ARCH_REGISTRY.register()
class QueryRCNN(nn.Module):
    """Query-conditioned R-CNN: `encode_query`, `encode_gallery`, `detect`.

    Training calls all three in `forward`; a search encodes each gallery image once and calls
    `detect` for every query.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        correlation_head: CorrelationHead,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        query_pooler: ROIPooler,
        query_levels: Sequence[str],
        query_pool: str,
        shared_template: bool = False,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        detach_query: bool,
        frozen_backbone: bool,
        bf16: bool,
    ):
        """
        Args:
            backbone: image -> maps of equal width; shared by query and gallery.
            correlation_head: (maps, kernel) -> maps for the RPN, maps for the RoI heads; it also
                says what of a query's pooled region the kernel is.
            proposal_generator, roi_heads: Detectron2's, on the correlated maps.
            query_pooler: pools the object's box in a crop's maps.
            query_levels: the maps that it pools from, in its order.
            query_pool: "roi" pools the object's box (D3), "full" the whole crop.
            shared_template: see `detect`.
            pixel_mean, pixel_std: of a channel, in the order of the input image.
            detach_query: no gradient through the query branch (D28).
            frozen_backbone: run the backbone without gradients.
            bf16: run a frozen backbone, and at inference the convolutions on correlated maps, in
                bfloat16; boxes, RoI heads and losses stay in float32.
        """
        super().__init__()
        if query_pool not in X_POOLS:
            raise ValueError(f"X_POOL {query_pool!r} is none of {X_POOLS}")
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.correlation_head = correlation_head
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.query_pooler = query_pooler
        self.query_levels = tuple(query_levels)
        self.query_pool = query_pool
        self.shared_template = shared_template
        self.detach_query = detach_query
        self.frozen_backbone = frozen_backbone
        self.bf16 = bf16
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        query = cfg.MODEL.QUERY
        backbone = build_backbone(cfg)
        shape = {name: backbone.output_shape()[name] for name in query.IN_FEATURES}
        query_levels = query.POOLER_IN_FEATURES or query.IN_FEATURES
        correlation_head = build_correlation_head(cfg, shape)
        return {
            "backbone": backbone,
            "correlation_head": correlation_head,
            "proposal_generator": build_proposal_generator(cfg, correlation_head.rpn_shape),
            "roi_heads": build_roi_heads(cfg, correlation_head.roi_shape),
            "query_pooler": ROIPooler(
                output_size=query.POOLER_RESOLUTION,
                scales=[1 / shape[name].stride for name in query_levels],
                sampling_ratio=query.POOLER_SAMPLING_RATIO,
                pooler_type=query.POOLER_TYPE,
            ),
            "query_levels": query_levels,
            "query_pool": query.X_POOL,
            "shared_template": query.SHARED_TEMPLATE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "detach_query": query.DETACH,
            "frozen_backbone": cfg.MODEL.BACKBONE.FREEZE_AT >= 5,
            "bf16": cfg.MODEL.BF16 == "on",
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the maps that the correlation works on."""
        return self.correlation_head.levels

    def preprocess(self, images: list[Tensor]) -> ImageList:
        """Normalize (3, H, W) images of 0..255 and pad them to one batch."""
        normalized = [(x.to(self.device) - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(normalized, self.backbone.size_divisibility)

    def encode_gallery(self, images: ImageList) -> dict[str, Tensor]:
        """Query-independent maps of gallery images: level -> (B, C, H, W), float32."""
        maps = self._backbone_maps(images.tensor)
        return {name: maps[name] for name in self.levels}

    def encode_query(self, crops: Tensor | Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Kernels of query crops (Eq. 3 before the mean).

        Args:
            crops: (N, 3, S, S) of 0..255; or N pictures (3, h, w) of any sizes.
            boxes: (N, 4) the object's box, XYXY in pixels of the crop.

        Returns:
            (N, *K) float32.
        """
        images = self.preprocess(list(crops))
        if self.query_pool == "full":
            boxes = boxes.new_tensor([[0, 0, w, h] for h, w in images.image_sizes])
        maps = self._backbone_maps(images.tensor)
        per_crop = [Boxes(box[None]) for box in boxes.to(self.device)]
        pooled = self.query_pooler([maps[name] for name in self.query_levels], per_crop)
        return self.correlation_head.to_kernel(pooled)

    def detect(
        self,
        features: dict[str, Tensor],
        kernel: Tensor,
        image_sizes: list[tuple[int, int]],
        with_masks: bool = True,
    ) -> list[Instances]:
        """Find each kernel's instance.

        With `shared_template`, several kernels on one image are averaged, and one pass finds the
        same boxes and probabilities for all of them (CST's code; the batch then matters).

        Args:
            features: of `encode_gallery`, for max(B, Q) images or for one.
            kernel: (B, *K), one for each image, or (Q, *K) on one image.
            image_sizes: (height, width) of each of the B network inputs.
            with_masks: run the mask head, if there is one.

        Returns:
            max(B, Q) Instances with `pred_boxes` (in network-input pixels), `scores` (foreground
            probability p), best first, and `pred_masks` where the mask head is on.
        """
        assert not self.training, "detect() is for evaluation mode"
        if self.shared_template and len(image_sizes) == 1 < len(kernel):
            mean = kernel.mean(dim=0, keepdim=True)
            (found,) = self.detect(features, mean, image_sizes, with_masks)
            return [copy.deepcopy(found) for _ in kernel]
        images, rpn_maps, roi_maps = self._correlate(features, kernel, image_sizes)
        with self._autocast():
            proposals, _ = self.proposal_generator(images, rpn_maps, None)
        if not with_masks:
            return self.roi_heads.detect_boxes(roi_maps, proposals)
        instances, _ = self.roi_heads(images, roi_maps, proposals, None)
        return instances

    @property
    def has_masks(self) -> bool:
        """Whether there is a mask head."""
        return self.roi_heads.mask_on

    def segment(
        self,
        features: dict[str, Tensor],
        kernel: Tensor,
        boxes: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        """Masks of boxes that are known, one for each kernel.

        Args:
            features: of `encode_gallery`, for one image.
            kernel: (Q, *K).
            boxes: (Q, 4) XYXY in network-input pixels.
            image_sizes: [(height, width)] of the network input.

        Returns:
            (Q, S, S) probabilities of the pixels of each box, scaled to a square.
        """
        assert self.has_masks and not self.training, "masks need a mask head in evaluation mode"
        images, _, roi_maps = self._correlate(features, kernel, image_sizes)
        given = []
        for box, size in zip(boxes.to(self.device), images.image_sizes):
            classes = torch.zeros(1, dtype=torch.int64, device=self.device)
            given.append(Instances(size, pred_boxes=Boxes(box[None]), pred_classes=classes))
        found = self.roi_heads.forward_with_given_boxes(roi_maps, given)
        return torch.cat([one.pred_masks[:, 0] for one in found])

    def refine(
        self,
        features: dict[str, Tensor],
        kernel: Tensor,
        boxes: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> Tensor:
        """Boxes that the RoI heads make of known boxes, one for each kernel.

        The box is the only proposal: iterated box regression. One whose foreground probability is
        not above MODEL.ROI_HEADS.SCORE_THRESH_TEST stays as it is.

        Args:
            features: of `encode_gallery`, for one image.
            kernel: (Q, *K).
            boxes: (Q, 4) XYXY in network-input pixels.
            image_sizes: [(height, width)] of the network input.

        Returns:
            (Q, 4) likewise, inside the image.
        """
        assert not self.training, "refine() is for evaluation mode"
        images, _, roi_maps = self._correlate(features, kernel, image_sizes)
        boxes = boxes.to(self.device)
        given = [
            Instances(size, proposal_boxes=Boxes(box[None]))
            for box, size in zip(boxes, images.image_sizes)
        ]
        found = self.roi_heads.detect_boxes(roi_maps, given)
        moved = [one.pred_boxes.tensor[0] if len(one) else box for one, box in zip(found, boxes)]
        return torch.stack(moved)

    def forward(self, batched_inputs: list[dict]):
        """Train on, or localize in, pairs of a gallery image and a query.

        Args:
            batched_inputs: one dict an image with "image" (3, H, W) and the query either as
                "query_crops" (n, 3, S, S), or n of any sizes, with "query_boxes" (n, 4), or as
                "query_vectors" (n, *K); in training also "instances" (`gt_boxes`, `gt_classes` = 0,
                `gt_masks`, `gt_weights`), and, for contrastive training, the same keys with
                "negative_" instead of "query_": another query, for which this image is null ground
                truth;
                and, where look-alikes are to be ignored (D20), "ignore_boxes" (E, 4) in the
                image's pixels, a separate key since Instances holds fields of its G boxes only;
                at inference "height", "width" of the wanted output frame.

        Returns:
            In training the losses; else a list of {"instances": Instances} in the output frame.
        """
        images = self.preprocess([one["image"] for one in batched_inputs])
        features = self.encode_gallery(images)
        kernel = self._mean_kernels(batched_inputs, "query")
        if not self.training:
            found = self.detect(features, kernel, images.image_sizes)
            return [
                {"instances": detector_postprocess(one, x["height"], x["width"])}
                for one, x in zip(found, batched_inputs)
            ]
        return self._losses(images, features, kernel, batched_inputs)

    def _losses(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        kernel: Tensor,
        batched_inputs: list[dict],
    ) -> dict[str, Tensor]:
        targets = [one["instances"].to(self.device) for one in batched_inputs]
        sizes = images.image_sizes
        paired = [i for i, one in enumerate(batched_inputs) if has_negative(one)]
        if paired:
            # Two-way pairs: the same image once with its own kernel, once with a foreign one.
            foreign = self._mean_kernels([batched_inputs[i] for i in paired], "negative")
            kernel = torch.cat([kernel, foreign])
            features = {name: torch.cat([y, y[paired]]) for name, y in features.items()}
            targets = targets + [targets[i][[]] for i in paired]
            sizes = sizes + [sizes[i] for i in paired]
        pairs, rpn_maps, roi_maps = self._correlate(features, kernel, sizes)
        ignored = self._ignored(batched_inputs, len(paired))
        proposals, rpn_losses = self.proposal_generator(pairs, rpn_maps, targets, **ignored)
        _, roi_losses = self.roi_heads(pairs, roi_maps, proposals, targets, **ignored)
        return {**rpn_losses, **roi_losses}

    def _ignored(self, batched_inputs: list[dict], num_negatives: int) -> dict[str, list[Boxes]]:
        """{"ignored": the ignore regions of each map}, or {} where no item has the key."""
        if not any("ignore_boxes" in one for one in batched_inputs):
            return {}
        none = torch.zeros(0, 4)
        boxes = [one.get("ignore_boxes", none) for one in batched_inputs]
        # To a foreign query the look-alikes are background as everything else.
        return {"ignored": [Boxes(b.to(self.device)) for b in boxes + [none] * num_negatives]}

    def _mean_kernels(self, batched_inputs: list[dict], role: str) -> Tensor:
        """(B, *K): the mean kernel of each item's crops (Eq. 3)."""
        if f"{role}_vectors" in batched_inputs[0]:
            return torch.stack(
                [one[f"{role}_vectors"].to(self.device).mean(dim=0) for one in batched_inputs]
            )
        counts = [len(one[f"{role}_boxes"]) for one in batched_inputs]
        vectors = self.encode_query(
            [crop for one in batched_inputs for crop in one[f"{role}_crops"]],
            torch.cat([one[f"{role}_boxes"] for one in batched_inputs]),
        )
        if self.detach_query:
            vectors = vectors.detach()
        return torch.stack([part.mean(dim=0) for part in vectors.split(counts)])

    def _backbone_maps(self, tensor: Tensor) -> dict[str, Tensor]:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
        no_grad = torch.no_grad() if self.frozen_backbone else contextlib.nullcontext()
        with no_grad, self._autocast(self.frozen_backbone):
            maps = self.backbone(tensor)
        return {name: maps[name].float() for name in self.levels}

    def _correlate(
        self, features: dict[str, Tensor], kernel: Tensor, sizes: list[tuple[int, int]]
    ) -> tuple[ImageList, dict[str, Tensor], dict[str, Tensor] | dict[str, ModulatedMap]]:
        """Stand-ins for the pictures, maps for the RPN, and float32 maps for the RoI heads."""
        # The backward pass of bfloat16 convolutions is slower than float32's on CPUs.
        with self._autocast(not self.training):
            rpn_maps, roi_maps = self.correlation_head(features, kernel)
        images = self._image_list(rpn_maps, sizes)
        return images, rpn_maps, {name: y.float() for name, y in roi_maps.items()}

    def _autocast(self, enabled: bool = True) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled and self.bf16)

    def _image_list(self, maps: dict[str, Tensor], sizes: list[tuple[int, int]]) -> ImageList:
        # RPN and RoI heads read the sizes only; any map stands for the pixels.
        any_map = next(iter(maps.values()))
        return ImageList(any_map, list(sizes) * (len(any_map) // len(sizes)))
