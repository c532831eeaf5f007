"""SelfTraining with all its parts, as a configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm
from torch import nn

from ..backbones import build_frozen_backbone, existing_resnet_layer
from ..data.crops import CropGeometry
from ..evaluation import GroundTruth
from ..modeling.coattention import CoAttention
from ..structures import Query, RankLists
from .box_refinement import build_refiner
from .coattention_labels import CoAttentionLabeler
from .label_settings import LabelSettings
from .label_verification import build_verifier
from .list_expansion import build_list_expander
from .localizer import Localizer, LocalizerSettings
from .self_training import SelfTraining


def build_self_training(
    cfg,
    model: nn.Module,
    gallery: list[dict],
    queries: Sequence[Query],
    rank_lists: RankLists,
    ground_truth: GroundTruth | None,
    *,
    directory: Path,
    fingerprint: str,
) -> SelfTraining:
    """The stages of a model in training.

    Args:
        cfg: of the training.
        model: QueryRCNN; the stages are made with the weights that it has then.
        gallery: records of the dataset that is trained on.
        queries: of that dataset.
        rank_lists: of the search engine, one a query.
        ground_truth: judges the stages where it is known; training sees it with
            FEW_SHOT.VERIFY.METHOD "oracle" alone.
        directory: the stages are published below it.
        fingerprint: of what they depend on.

    Raises:
        ValueError: a part of the configuration contradicts another.
    """
    return SelfTraining(
        Localizer(model, gallery, queries, LocalizerSettings.from_config(cfg)),
        rank_lists,
        queries,
        ground_truth,
        build_refiner(cfg.SPIL.REFINE_BOXES, gallery),
        build_labeler(cfg, gallery, queries),
        directory=directory,
        fingerprint=fingerprint,
        num_stages=cfg.SPIL.NUM_STAGES,
        train_top_k=cfg.SPIL.TRAIN_TOP_K,
        stage_top_k=cfg.SPIL.STAGE_TOP_K,
        thresholds=cfg.SPIL.TAU,
        num_crops=cfg.MODEL.QUERY.NUM_CROPS,
        cache_vectors=cfg.MODEL.QUERY.CACHE_VECTORS,
        expander=build_list_expander(cfg, gallery, queries),
        verifier=build_verifier(cfg, gallery, queries, ground_truth),
        labels=LabelSettings.from_config(cfg),
    )


def build_labeler(cfg, gallery: list[dict], queries: Sequence[Query]) -> CoAttentionLabeler | None:
    """The co-attention labeler of a configuration, on a frozen backbone of its own."""
    if not cfg.COATTENTION.ENABLED or not comm.is_main_process():
        return None
    cfg = cfg.clone()
    cfg.defrost()
    node, query = cfg.COATTENTION, cfg.MODEL.QUERY
    node.FEATURE = existing_resnet_layer(cfg, node.FEATURE)
    features = [name for name in (node.FEATURE, node.FINE_FEATURE) if name]
    backbone = build_frozen_backbone(cfg, features)
    strides = [backbone.output_shape()[name].stride for name in features]
    if len(strides) == 2 and strides[1] >= strides[0]:
        raise ValueError(
            f"COATTENTION.FINE_FEATURE is {node.FINE_FEATURE!r} of stride {strides[1]}: use a map "
            f"finer than COATTENTION.FEATURE {node.FEATURE!r} of stride {strides[0]}, or ''"
        )
    return CoAttentionLabeler(
        CoAttention(cfg, feature_extractor=backbone),
        {int(one["image_id"]): one for one in gallery},
        queries,
        query.NUM_CROPS + 1,
        kind=node.SET,
        crop=CropGeometry(query.CROP_SIZE, query.CROP_CONTEXT, query.CROP_SHAPE),
        v_policy=cfg.SPIL.V_POLICY,
    )
