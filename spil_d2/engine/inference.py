"""From a trained localizer to final rank lists, their evaluation and their re-ranking."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from tqdm import tqdm

from ..evaluation import GroundTruth, InstanceSearchEvaluator
from ..retrieval import RegionIndex, SearchEngine
from ..retrieval.rerank import KReciprocal
from ..retrieval.search import embed_queries, read_rgb
from ..selftrain.pseudo_labels import initial_pool, select_pseudo_labels
from ..structures import Query, RankList, RankLists, SamplePool
from .localizer import Localizer
from .plots import plot_recall_iou

logger = logging.getLogger(__name__)


def localize_dataset(
    localizer: Localizer,
    queries: Sequence[Query],
    rank_lists: RankLists,
    *,
    train_top_k: int,
    num_crops: int,
    tau: float,
) -> tuple[RankLists | None, SamplePool]:
    """Localize a dataset that the stages did not run on (inductive use, D21).

    A first pass over the head of each list finds confident boxes; the second pass takes its
    kernels from them and localizes everything.

    Args:
        localizer: over the dataset's gallery and queries.
        queries, rank_lists: of the dataset, the lists from the search engine.
        train_top_k: length of the head.
        num_crops: n of Eq. 3.
        tau: probability above which a box counts as confident.

    Returns:
        The lists with the localizer's boxes on the main process, else None; and the pool that the
        second pass took its kernels from.
    """
    pool = initial_pool(queries, rank_lists, train_top_k)
    vectors = localizer.encode_pool(pool, num_crops)
    head = localizer.localize(rank_lists.top(train_top_k), pool, vectors, "first pass")
    if comm.is_main_process():
        pool = select_pseudo_labels(pool, rank_lists, head, tau)
    pool = comm.all_gather(pool)[0]
    vectors = localizer.encode_pool(pool, num_crops)
    return localizer.localize(rank_lists, pool, vectors, "second pass"), pool


def refined_similarities(
    engine: SearchEngine,
    index: RegionIndex,
    gallery: Sequence[dict],
    queries: Sequence[Query],
    lists: RankLists,
    reciprocal: KReciprocal | None = None,
) -> dict[tuple[int, int], float]:
    """Similarity of each refined box with its query (Section 1.8 of the specification).

    Keeps one embedding for each entry of the lists, in half precision.

    Args:
        engine, index: those that the lists come from.
        gallery, queries: of the dataset.
        lists: with the refined boxes.
        reciprocal: the k-reciprocal re-ranking that the lists went through, if any: the refined
            boxes go through it too.

    Returns:
        (query id, image id) -> similarity.
    """
    shown = embed_queries(engine, queries)
    embeddings = dict(zip((query.id for query in queries), shown))
    regions = _embed_refined(engine, gallery, lists)
    similarities = {}
    for one in lists.lists:
        query_id, image_ids = one.query_id, one.image_ids.tolist()
        if not image_ids:
            continue
        query = embeddings[query_id]
        found = np.stack([regions[query_id, i] for i in image_ids]).astype(np.float32)
        if reciprocal is None:
            scores = index.compare(query[None], found)[0]
        else:
            scores = reciprocal.rescore(query, found, one, index)
        similarities.update(zip(((query_id, i) for i in image_ids), scores.tolist()))
    return similarities


def _embed_refined(
    engine: SearchEngine, gallery: Sequence[dict], lists: RankLists
) -> dict[tuple[int, int], np.ndarray]:
    """(query id, image id) -> (D,) float16 embedding of the list's box in that image."""
    files = {int(one["image_id"]): one["file_name"] for one in gallery}
    wanted: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for one in lists.lists:
        for image_id, box in zip(one.image_ids.tolist(), one.boxes):
            wanted[image_id].append((one.query_id, box))
    regions = {}
    for image_id, members in tqdm(wanted.items(), "re-ranking"):
        vectors = engine.embed(read_rgb(files[image_id]), np.stack([box for _, box in members]))
        for vector, (query_id, _) in zip(vectors.astype(np.float16), members):
            regions[query_id, image_id] = vector
    return regions


def own_similarities(lists: RankLists) -> dict[tuple[int, int], float]:
    """(query id, image id) -> similarity, of the lists themselves."""
    return {
        (one.query_id, image_id): similarity
        for one in lists.lists
        for image_id, similarity in zip(one.image_ids.tolist(), one.similarities.tolist())
    }


def mix_similarities(
    one: dict[tuple[int, int], float], other: dict[tuple[int, int], float], share: float
) -> dict[tuple[int, int], float]:
    """`share` of the first similarities and the rest of the second; both have the same keys."""
    return {key: share * value + (1 - share) * other[key] for key, value in one.items()}


def weigh_by_probability(
    lists: RankLists, similarities: dict[tuple[int, int], float], power: float
) -> dict[tuple[int, int], float]:
    """Similarities times p ** `power`; those of 0 and less stay as they are.

    Args:
        lists: with the localizer's probabilities p.
        similarities: (query id, image id) -> similarity.
        power: 0 changes nothing.
    """
    weighed = dict(similarities)
    for one in lists.lists:
        assert one.probabilities is not None, "a localized list carries probabilities"
        for image_id, p in zip(one.image_ids.tolist(), one.probabilities.tolist()):
            key = one.query_id, image_id
            if weighed[key] > 0:
                weighed[key] *= p**power
    return weighed


def rerank(lists: RankLists, similarities: dict[tuple[int, int], float]) -> RankLists:
    """The lists in the order of other similarities."""
    return RankLists(tuple(_rerank_one(one, similarities) for one in lists.lists))


def _rerank_one(one: RankList, similarities: dict[tuple[int, int], float]) -> RankList:
    values = np.array([similarities[one.query_id, i] for i in one.image_ids.tolist()], np.float32)
    order = np.argsort(-values, kind="stable")
    return replace(
        one,
        image_ids=one.image_ids[order],
        boxes=one.boxes[order],
        similarities=values[order],
        probabilities=None if one.probabilities is None else one.probabilities[order],
    )


def evaluate_localized(
    localized: RankLists,
    similarities: dict[tuple[int, int], float] | None,
    ground_truth: GroundTruth,
    baselines: dict[str, RankLists],
    output_dir: Path,
) -> dict:
    """Run the Detectron2 evaluator over localized lists; writes its files into `output_dir`."""
    evaluator = InstanceSearchEvaluator(
        ground_truth,
        label="final",
        baselines=baselines,
        output_dir=output_dir,
        plot_curves=plot_recall_iou,
        # The main process alone judges: the others have left.
        distributed=False,
    )
    evaluator.reset()
    for one in localized.lists:
        for rank, image_id in enumerate(one.image_ids.tolist()):
            instances = Instances((1, 1))
            instances.pred_boxes = Boxes(torch.from_numpy(one.boxes[rank : rank + 1]))
            instances.scores = torch.from_numpy(one.probabilities[rank : rank + 1])
            pair = {
                "query_id": one.query_id,
                "image_id": image_id,
                "rank": rank,
                "similarity": float(one.similarities[rank]),
            }
            answer: dict = {"instances": instances}
            if similarities is not None:
                answer["similarity"] = similarities[one.query_id, image_id]
            evaluator.process([pair], [answer])
    return evaluator.evaluate()
