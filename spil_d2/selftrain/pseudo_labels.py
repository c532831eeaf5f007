"""From rank lists to the sample pool: SPIL's Eq. 4."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..structures import Box, Candidate, Query, QueryPool, RankList, RankLists, SamplePool, Target


def initial_pool(queries: Sequence[Query], rank_lists: RankLists, top_k: int) -> SamplePool:
    """V of Stage-0: the user's boxes as the only targets, the engine's boxes Z as support.

    Args:
        queries: those to train on; each has a rank list.
        rank_lists: of the search engine.
        top_k: length of the list that training draws from.
    """
    return SamplePool(
        0,
        tuple(
            QueryPool(
                query.id, Target(query.primary.box, 1.0), _support(rank_lists[query.id], top_k)
            )
            for query in queries
        ),
    )


def _support(ranked: RankList, top_k: int) -> tuple[Candidate, ...]:
    ranked = ranked.top(top_k)
    return tuple(
        Candidate(int(image_id), as_box(box))
        for image_id, box in zip(ranked.image_ids, ranked.boxes)
    )


def as_box(values: Sequence[float]) -> Box:
    """Four numbers as a box."""
    x0, y0, x1, y1 = map(float, values)
    return x0, y0, x1, y1


def select_pseudo_labels(
    pool: SamplePool, engine_lists: RankLists, localized: RankLists, tau: float
) -> SamplePool:
    """V of the next stage: boxes with p > τ become targets of weight ω = p (Eq. 4, D9, D12).

    Labels are decided anew at each stage: an image may leave the targets, and then its support box
    is the engine's again.

    Args:
        pool: V of the stage that has ended; it names the candidates.
        engine_lists: Z, for the candidates that are not confident.
        localized: the localizer's box and probability for at least all candidates.
        tau: threshold τ of the stage to come.
    """
    if not 0 < tau < 1:
        raise ValueError(f"a threshold tau is in (0, 1), got {tau}")
    return SamplePool(
        pool.stage + 1,
        tuple(
            QueryPool(
                one.query_id,
                one.reference,
                _judge(one, engine_lists[one.query_id], localized[one.query_id], tau),
            )
            for one in pool.queries
        ),
    )


def _judge(
    pool: QueryPool, engine_list: RankList, localized: RankList, tau: float
) -> tuple[Candidate, ...]:
    assert localized.probabilities is not None, "a localized list carries probabilities"
    searched = dict(zip(engine_list.image_ids.tolist(), engine_list.boxes.tolist()))
    found = {
        int(image_id): (box, float(p))
        for image_id, box, p in zip(
            localized.image_ids, localized.boxes.tolist(), localized.probabilities
        )
    }
    judged = []
    for candidate in pool.candidates:
        box, probability = found[candidate.image_id]
        if probability > tau:
            target = Target(as_box(box), probability)
            judged.append(Candidate(candidate.image_id, target.box, target))
        else:
            judged.append(Candidate(candidate.image_id, as_box(searched[candidate.image_id])))
    return tuple(judged)


def drop_labels(
    pool: SamplePool, engine_lists: RankLists, rejected: Collection[tuple[int, int]]
) -> SamplePool:
    """The pool without some of its pseudo labels: their support boxes are the engine's again.

    Args:
        pool: V of a stage.
        engine_lists: Z, for the candidates that lose their labels.
        rejected: pairs of a query id and an image id.
    """
    queries = []
    for one in pool.queries:
        ranked = engine_lists[one.query_id]
        searched = dict(zip(ranked.image_ids.tolist(), ranked.boxes.tolist()))
        candidates = tuple(
            Candidate(candidate.image_id, as_box(searched[candidate.image_id]))
            if (one.query_id, candidate.image_id) in rejected
            else candidate
            for candidate in one.candidates
        )
        queries.append(replace(one, candidates=candidates))
    return replace(pool, queries=tuple(queries))
