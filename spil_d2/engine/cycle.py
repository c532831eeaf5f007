"""Cycle self-training (CST, Section 3): localizer and ranker train each other, round after round.

A round r turns the weights of round r - 1 into

    rounds/RR/rank_lists/   the seeds' regions: boxes by the localizer, their order by the ranker
    rounds/RR/agreement/    with CST.AGREEMENT: the boxes that most of these lists have, which are
                            trained on, and the seeds of the next round
    rounds/RR/pool/         pairs for the localizer, drawn by similarity (Eq. 8)
    rounds/RR/localizer/    its training; localizer.pth is written last
    rounds/RR/clusters/     pseudo identities of regions for the ranker
    rounds/RR/ranker/       its training; ranker.pth is written last
    rounds/RR/metrics/      a row of Table 8

Both models learn from the same rank lists. Each of these is published whole, made only if it is not
there, and read back by all processes; so a cycle that was killed anywhere goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from detectron2.utils import comm

from ..data.region_crops import Region
from ..selftrain.agreement import AgreementSettings, agreed_regions, lists_among
from ..selftrain.clustering import ClusteringSettings, cluster_regions
from ..selftrain.seed_search import SeedSearch
from ..selftrain.seeds import QuerySeeds
from ..selftrain.similarity_sampling import (
    SeedPairSampler,
    agreeing_seeds,
    pool_of_regions,
)
from ..structures import ClusterAssignment, Query, RegionLists, SamplePool
from ..utils.artifacts import (
    check_fingerprint,
    fingerprint,
    is_published,
    publish_directory,
    read_manifest,
    remove_artefact,
    replaced_file,
    write_json_atomic,
)
from .box_refinement import build_refiner
from .cycle_data import CycleData
from .cycle_evaluation import evaluate_system, growing_table
from .cycle_models import CycleConfigs, pretrained_localizer, pretrained_ranker, with_weights
from .localizer import Localizer, LocalizerSettings
from .pair_trainer import load_localizer, train_localizer
from .ranker_inference import EmbedderSettings, RegionEmbedder
from .ranker_trainer import load_ranker, train_ranker
from .region_search import best_boxes, localize_queries, rank_regions
from .search_stage import search_dataset
from .seed_stage import SEEDS, make_seeds
from .training_run import kept_keys

logger = logging.getLogger(__name__)

LISTS, POOL, SIMILARITIES = "region_lists.npz", "pool.json.gz", "similarities.npz"
CLUSTERS, REGIONS = "clusters.npz", "regions.npz"
SUMMARY, TABLE = "summary.json", "table8.md"
SEED_FOLDER, ROUNDS, POOLS, AGREEMENT = "seeds", "rounds", "pool", "agreement"
_FOLDERS = ("pretrained", SEED_FOLDER, ROUNDS, "index", "search")
_KEYS = ("INPUT", "MODEL", "SOLVER", "SEARCH", "SPIL", "RANKER", "TEST")


@dataclass(frozen=True)
class Models:
    """Weights of both models after a round."""

    localizer: Path
    ranker: Path


def run_cycle(cfg, resume: bool) -> list[dict]:
    """The whole cycle of a configuration in OUTPUT_DIR.

    Args:
        cfg: frozen; a configuration of configs/CST/.
        resume: go on with what lies in OUTPUT_DIR, also with more rounds than before; else an
            earlier cycle there is removed.

    Returns:
        On the main process the rows of Table 8, from the pretrained models on; elsewhere [].
    """
    output = Path(cfg.OUTPUT_DIR)
    if not resume:
        _forget_earlier_cycle(output)
    cycle = Cycle(cfg, CycleData.from_config(cfg), CycleConfigs.from_config(cfg))
    models = cycle.pretrained()
    rows = [cycle.judge(0, models)]
    for number in range(1, cfg.CST.ROUNDS + 1):
        models = cycle.run_round(number, models)
        rows.append(cycle.judge(number, models))
        logger.info("after round %d, in percent:\n%s", number, growing_table(rows))
    if not comm.is_main_process():
        return []
    with replaced_file(output / TABLE) as file:
        file.write(growing_table(rows) + "\n")
    write_json_atomic(output / SUMMARY, {"rounds": rows, "fingerprint": cycle.fingerprint})
    return rows


class Cycle:
    """The steps of a cycle over one configuration; all processes call them together."""

    def __init__(self, cfg, data: CycleData, configs: CycleConfigs):
        self._cfg = cfg
        self._data = data
        self._configs = configs
        self._output = Path(cfg.OUTPUT_DIR)
        self.fingerprint = _fingerprint(cfg, configs, data)
        self._gallery = {int(one["image_id"]): one for one in data.unlabeled}
        self._proposed = make_seeds(cfg, data.unlabeled, self._output / SEED_FOLDER)

    def pretrained(self) -> Models:
        """Given weights, or both models trained on identities."""
        folder = self._output / "pretrained"
        return Models(
            pretrained_localizer(self._cfg, self._configs, folder / "localizer"),
            pretrained_ranker(self._cfg, self._configs, folder / "ranker"),
        )

    def run_round(self, number: int, before: Models) -> Models:
        """Rank lists with the models so far; then both are trained on them."""
        node = self._cfg.CST
        seeds = self.seeds(number)
        lists = self.rank_lists(number, seeds, before)
        if node.AGREEMENT.ENABLED:
            seeds, lists = self.agreement(number, seeds, lists, before)
        lists = agreeing_seeds(lists, node.SAMPLING.SEED_FRACTION, node.SAMPLING.SEED_TOP_K)
        localizer = self.train_localizer(number, seeds, lists, before)
        return Models(localizer, self.train_ranker(number, lists, before))

    def seeds(self, number: int) -> Sequence[Query]:
        """What a round searches for: proposals, or what the round before has agreed upon."""
        if number == 1 or not self._cfg.CST.AGREEMENT.ENABLED:
            return self._proposed.queries(self._gallery)
        agreed = QuerySeeds.load(self._folder(number - 1, AGREEMENT) / SEEDS)
        return agreed.queries(self._gallery)

    def rank_lists(self, number: int, seeds: Sequence[Query], models: Models) -> RegionLists:
        """The regions of every seed over the images that the round searches."""
        folder = self._folder(number, "rank_lists")
        if not is_published(folder):
            wanted = self._seed_search(seeds).plan(seeds, number).by_image()
            localizer = self._localizer(models, self._data.unlabeled, seeds)
            found = localize_queries(localizer, seeds, wanted, f"round {number}: seeds")
            if found is not None:
                lists = rank_regions(
                    best_boxes(found, self._cfg.CST.BOXES_PER_IMAGE),
                    self._embedder(models),
                    seeds,
                    self._data.unlabeled,
                    self._cfg.CST.SHARE_IOU,
                )
                facts = {"seeds": len(lists), "regions": sum(map(len, lists.lists))}
                self._publish(folder, lambda path: lists.save(path / LISTS), facts)
        self._check(folder)
        return RegionLists.load(folder / LISTS)

    def agreement(
        self, number: int, seeds: Sequence[Query], lists: RegionLists, models: Models
    ) -> tuple[Sequence[Query], RegionLists]:
        """What the lists agree upon, as seeds with lists among themselves."""
        folder = self._folder(number, AGREEMENT)
        if not is_published(folder) and comm.is_main_process():
            node = self._cfg.CST
            agreed = self._refined(agreed_regions(seeds, lists, _agreement(self._cfg)))
            embeddings = self._embedder(models).embed(self._regions(agreed.image_ids, agreed.boxes))
            top_k = max(node.SAMPLING.TOP_K, node.CLUSTERING.TOP_K)
            among = lists_among(agreed, embeddings, top_k, node.CLUSTERING.EXACT_LIMIT)

            def write(path: Path) -> None:
                agreed.save(path / SEEDS)
                among.save(path / LISTS)

            self._publish(folder, write, {"seeds": len(agreed)})
        self._check(folder)
        agreed = QuerySeeds.load(folder / SEEDS)
        return agreed.queries(self._gallery), RegionLists.load(folder / LISTS)

    def train_localizer(
        self, number: int, seeds: Sequence[Query], lists: RegionLists, before: Models
    ) -> Path:
        """The localizer after similarity-guided sampling of pairs."""
        node = self._cfg.CST
        folder = self._folder(number, POOLS)
        if not is_published(folder) and comm.is_main_process():
            pool, similarities = pool_of_regions(
                [one for one in seeds if one.id in lists],
                lists,
                round_index=number,
                top_k=node.SAMPLING.TOP_K,
                keep_own_image=node.RANK_LISTS.KEEP_OWN_IMAGE,
                one_box_per_image=node.SAMPLING.ONE_BOX_PER_IMAGE,
            )

            def write(path: Path) -> None:
                pool.save(path / POOL)
                with open(path / SIMILARITIES, "wb") as file:
                    np.savez_compressed(file, **{str(k): v for k, v in similarities.items()})

            self._publish(folder, write, {"pairs": pool.num_targets})
        self._check(folder)
        pool = SamplePool.load(folder / POOL)
        with np.load(folder / SIMILARITIES, allow_pickle=False) as data:
            known = {one.query_id: data[str(one.query_id)] for one in pool.queries}
        sampler = SeedPairSampler(
            pool,
            known,
            strategy=node.SAMPLING.STRATEGY,
            top_k=node.SAMPLING.TOP_K,
            threshold=node.SAMPLING.THRESHOLD,
            power=node.SAMPLING.POWER,
        )
        return train_localizer(
            with_weights(self._configs.localizer_round, before.localizer),
            self._data.unlabeled,
            seeds,
            pool,
            sampler,
            self._folder(number, "localizer"),
            resume=True,
        )

    def train_ranker(self, number: int, lists: RegionLists, before: Models) -> Path:
        """The ranker after training on clusters; the old one where there are fewer than two."""
        folder = self._folder(number, "clusters")
        if not is_published(folder) and comm.is_main_process():
            image_ids, boxes = _first_regions(lists, self._cfg.CST.CLUSTERING.TOP_K)
            embeddings = self._embedder(before).embed(self._regions(image_ids, boxes))
            clusters = cluster_regions(embeddings, image_ids, boxes, _clustering(self._cfg))

            def write(path: Path) -> None:
                clusters.save(path / CLUSTERS)
                with open(path / REGIONS, "wb") as file:
                    np.savez_compressed(file, image_ids=image_ids, boxes=boxes)

            facts = {"clusters": clusters.num_clusters, "noise": clusters.num_noise}
            self._publish(folder, write, {**facts, "regions": len(clusters)})
        self._check(folder)
        clusters = ClusterAssignment.load(folder / CLUSTERS)
        if clusters.num_clusters < 2:
            logger.warning(
                "round %d has %d clusters of %d regions: the ranker stays as it was; raise "
                "CST.CLUSTERING.EPS or search more images",
                number,
                clusters.num_clusters,
                len(clusters),
            )
            return before.ranker
        with np.load(folder / REGIONS, allow_pickle=False) as data:
            regions = self._regions(data["image_ids"], data["boxes"])
        return train_ranker(
            with_weights(self._configs.ranker_round, before.ranker),
            regions,
            clusters.labels,
            self._folder(number, "ranker"),
            resume=True,
        )

    def judge(self, number: int, models: Models) -> dict:
        """A row of Table 8, on all processes; no training sees it."""
        folder = self._folder(number, "metrics")
        if not is_published(folder):
            row = evaluate_system(
                self._localizer(models, self._data.test, self._data.queries),
                self._embedder(models),
                self._data,
                boxes_per_image=self._cfg.CST.BOXES_PER_IMAGE,
                share_iou=self._cfg.CST.SHARE_IOU,
            )
            if row is not None:
                self._publish(folder, lambda path: None, {"row": {"round": number, **row}})
        self._check(folder)
        return read_manifest(folder)["row"]

    def _seed_search(self, seeds: Sequence[Query]) -> SeedSearch:
        node = self._cfg.CST.RANK_LISTS
        shortlist = None
        if node.SCOPE == "shortlist":
            cfg = self._cfg.clone()
            cfg.defrost()
            cfg.SEARCH.TOP_K = node.SHORTLIST
            records = list(self._gallery.values())
            lists = search_dataset(cfg, "unlabeled", records, seeds, self._output)

            def shortlist(seed: Query, length: int) -> np.ndarray:
                return lists[seed.id].image_ids[:length]

        return SeedSearch(
            self._gallery,
            scope=node.SCOPE,
            num_shards=node.NUM_SHARDS,
            shortlist_length=node.SHORTLIST,
            shortlist=shortlist,
            folder_neighbors=node.FOLDER_NEIGHBORS,
            keep_own_image=node.KEEP_OWN_IMAGE,
            seed=self._cfg.CST.SEEDS.SEED,
        )

    def _localizer(
        self, models: Models, gallery: Sequence[dict], queries: Sequence[Query]
    ) -> Localizer:
        cfg = self._configs.localizer_round
        model = load_localizer(cfg, models.localizer)
        return Localizer(model, gallery, queries, LocalizerSettings.from_config(cfg))

    def _embedder(self, models: Models) -> RegionEmbedder:
        cfg = self._configs.ranker_round
        return RegionEmbedder(load_ranker(cfg, models.ranker), EmbedderSettings.from_config(cfg))

    def _refined(self, agreed: QuerySeeds) -> QuerySeeds:
        refiner = build_refiner(self._cfg.CST.AGREEMENT.REFINE_BOXES, self._data.unlabeled)
        if refiner is None:
            return agreed
        boxes = refiner.refine_boxes(list(zip(agreed.image_ids.tolist(), agreed.boxes)))
        return replace(agreed, boxes=np.array(boxes, np.float32))

    def _regions(self, image_ids: np.ndarray, boxes: np.ndarray) -> list[Region]:
        files = {int(one["image_id"]): one["file_name"] for one in self._data.unlabeled}
        return [Region(files[i], tuple(box)) for i, box in zip(image_ids.tolist(), boxes.tolist())]

    def _folder(self, number: int, name: str) -> Path:
        return self._output / ROUNDS / f"{number:02d}" / name

    def _publish(self, folder: Path, write: Callable[[Path], None], facts: dict) -> None:
        publish_directory(folder, write, {"fingerprint": self.fingerprint, **facts})
        logger.info("%s: %s", folder, {k: v for k, v in facts.items() if k != "row"})

    def _check(self, folder: Path) -> None:
        comm.synchronize()
        check_fingerprint(folder, self.fingerprint)


def _first_regions(lists: RegionLists, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,) and boxes (N, 4) of the head of every list, each region once."""
    heads = lists.top(top_k).lists
    image_ids = np.concatenate([one.image_ids for one in heads])
    boxes = np.concatenate([one.boxes for one in heads])
    rows = np.concatenate([image_ids[:, None].astype(np.float64), boxes], axis=1)
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    return image_ids[first], boxes[first]


def _agreement(cfg) -> AgreementSettings:
    node = cfg.CST.AGREEMENT
    return AgreementSettings(
        per_image=node.PER_IMAGE,
        vote_iou=node.VOTE_IOU,
        suppress_iou=node.SUPPRESS_IOU,
        min_votes=node.MIN_VOTES,
        max_voters=node.MAX_VOTERS,
    )


def _clustering(cfg) -> ClusteringSettings:
    node = cfg.CST.CLUSTERING
    return ClusteringSettings(
        mode=node.MODE,
        eps=node.EPS,
        eps_percentile=node.EPS_PERCENTILE,
        min_samples=node.MIN_SAMPLES,
        iou_weight=node.IOU_WEIGHT,
        num_neighbors=node.NUM_NEIGHBORS,
        max_clusters=node.MAX_CLUSTERS,
        exact_limit=node.EXACT_LIMIT,
    )


def _fingerprint(cfg, configs: CycleConfigs, data: CycleData) -> str:
    """Of all keys and images that the artefacts depend on; a cycle may get more rounds."""
    keys = {}
    for name, one in (("cycle", cfg), ("ranker", configs.ranker_round)):
        one = one.clone()
        one.defrost()
        one.CST.ROUNDS = 0
        keys[name] = kept_keys(one, (*_KEYS, "CST"))
    images = [sorted(int(one["image_id"]) for one in some) for some in (data.unlabeled, data.test)]
    return fingerprint({"keys": keys, "images": images})


def _forget_earlier_cycle(output: Path) -> None:
    if comm.is_main_process():
        for name in _FOLDERS:
            if (output / name).exists():
                logger.warning("removing %s of an earlier cycle (no --resume)", output / name)
                remove_artefact(output / name)
    comm.synchronize()
