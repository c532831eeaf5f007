"""Query expansion within self-paced training (SPIL, Section 4): the search by pseudo labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..selftrain.list_expansion import choose_instances, instance_queries, unite_lists
from ..structures import Query, RankLists, RegionLists, SamplePool
from .search_stage import search_again

logger = logging.getLogger(__name__)

EXPANDED, INSTANCES = "expanded_lists.npz", "instances.npz"
"""In the folder of the stage that begins with longer lists: these, and what searched for them."""


@dataclass(frozen=True)
class ExpansionSettings:
    """When and how rank lists grow; the keys of FEW_SHOT.QE.

    Attributes:
        after_stage: the stage that has ended when they do.
        num_instances: pseudo labels of a query that search, at most.
        threshold: they have a larger probability.
        top_k: length of the united lists, at most.
    """

    after_stage: int
    num_instances: int
    threshold: float
    top_k: int

    @classmethod
    def from_config(cls, cfg) -> ExpansionSettings | None:
        """None where FEW_SHOT.QE is not enabled.

        Raises:
            ValueError: naming the key that does not fit.
        """
        node, last = cfg.FEW_SHOT.QE, cfg.SPIL.NUM_STAGES - 2
        if not node.ENABLED:
            return None
        if not 0 <= node.AFTER_STAGE <= last:
            raise ValueError(
                f"FEW_SHOT.QE.AFTER_STAGE is {node.AFTER_STAGE}: use 0 to SPIL.NUM_STAGES - 2 = "
                f"{last}, so that a stage trains on the longer lists"
            )
        if node.NUM_INSTANCES < 1 or not 0 < node.THRESHOLD < 1:
            raise ValueError(
                f"FEW_SHOT.QE.NUM_INSTANCES is {node.NUM_INSTANCES} and THRESHOLD "
                f"{node.THRESHOLD}: use at least 1, and a probability in (0, 1)"
            )
        if node.TOP_K < cfg.SPIL.TRAIN_TOP_K:
            raise ValueError(
                f"FEW_SHOT.QE.TOP_K is {node.TOP_K}: lists do not get shorter, use "
                f"SPIL.TRAIN_TOP_K = {cfg.SPIL.TRAIN_TOP_K} or more"
            )
        return cls(node.AFTER_STAGE, node.NUM_INSTANCES, node.THRESHOLD, node.TOP_K)


@dataclass(frozen=True)
class Expansion:
    """What came of it.

    Attributes:
        lists: of all queries, the longer ones.
        instances: the pseudo labels that searched.
    """

    lists: RankLists
    instances: RegionLists


class ListExpander:
    """Searches with the confident pseudo labels, and unites what they find with the rank lists."""

    def __init__(
        self,
        search: Callable[[Sequence[Query]], RankLists],
        gallery: Sequence[dict],
        queries: Sequence[Query],
        settings: ExpansionSettings,
    ):
        """
        Args:
            search: queries -> their rank lists.
            gallery: Detectron2 dicts.
            queries: of the rank lists to come.
            settings: see there.
        """
        self._search = search
        self._gallery = gallery
        self._queries = {one.id: one for one in queries}
        self.settings = settings

    def expand(self, lists: RankLists, confident: SamplePool) -> Expansion:
        """Longer lists; on the main process only.

        A query without a pseudo label keeps its list, cut like the others.

        Args:
            lists: of the search engine.
            confident: a pool whose pseudo labels passed the settings' threshold.
        """
        instances = choose_instances(confident, self.settings.num_instances)
        queries = [self._queries[one.query_id] for one in lists.lists]
        members = instance_queries(instances, queries, self._gallery)
        searching = [one for group in members.values() for one in group]
        logger.info("%d pseudo labels of %d queries search", len(searching), len(queries))
        found = self._search(searching)
        united = (
            unite_lists(
                [lists[one.id], *(found[member.id] for member in members[one.id])],
                one.own_image_ids,
                self.settings.top_k,
            )
            for one in queries
        )
        return Expansion(RankLists(tuple(united)), instances)


def build_list_expander(
    cfg, gallery: Sequence[dict], queries: Sequence[Query]
) -> ListExpander | None:
    """The expander of a configuration, on the training dataset's index; None where it is off."""
    settings = ExpansionSettings.from_config(cfg)
    if settings is None:
        return None
    name, top_k = cfg.DATASETS.TRAIN[0], settings.top_k

    def search(searching: Sequence[Query]) -> RankLists:
        return search_again(cfg, name, gallery, searching, cfg.OUTPUT_DIR, top_k)

    return ListExpander(search, gallery, queries, settings)


def read_instances(
    output_dir: str | Path, gallery: Sequence[dict], queries: Sequence[Query]
) -> list[Query]:
    """The pseudo labels that a run expanded its lists with, as queries.

    With the shots they make the kernels of tests (D26).

    Args:
        output_dir: of a run with FEW_SHOT.QE, past the stage that it expanded after.
        gallery, queries: of the run's training dataset.

    Returns:
        One query of one reference for each, with the `category_id` of the query it was found for;
        best first within a query, and with ids that follow those of `queries`.

    Raises:
        FileNotFoundError: the run has expanded no lists.
    """
    stages = Path(output_dir) / "stages"
    files = sorted(stages.glob(f"[0-9]*/{INSTANCES}"))
    if not files:
        raise FileNotFoundError(
            f"no {INSTANCES} in a folder of {stages}: the run has no FEW_SHOT.QE, or has not "
            "reached the stage after FEW_SHOT.QE.AFTER_STAGE"
        )
    members = instance_queries(RegionLists.load(files[0]), queries, gallery)
    return [one for group in members.values() for one in group]
