"""The INS protocol once more, as slow loops over plain lists; tests compare with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Box = Sequence[float]
Row = tuple[str, Box, float]


def iou(a: Box, b: Box) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / area if area > 0 else 0.0


def walk(
    rows: Sequence[Row],
    truth: Mapping[str, Sequence[Box]],
    ignored: set[str],
    searched: set[str] | None = None,
    threshold: float = 0.5,
) -> list[bool]:
    """Whether each remaining box is right, best first."""
    kept = [
        (i, row)
        for i, row in enumerate(rows)
        if row[0] not in ignored and (searched is None or row[0] in searched)
    ]
    kept.sort(key=lambda one: (-one[1][2], one[1][0], one[0]))
    consumed: set[tuple[str, int]] = set()
    hits = []
    for _, (image, box, _) in kept:
        overlaps = [iou(box, gt) for gt in truth.get(image, [])]
        best = max(range(len(overlaps)), key=lambda g: (overlaps[g], -g), default=None)
        is_hit = best is not None and overlaps[best] > threshold and (image, best) not in consumed
        if is_hit:
            assert best is not None
            consumed.add((image, best))
        hits.append(is_hit)
    return hits


def ap_retrieval(hits: Sequence[bool], num_gt: int) -> float:
    total, found = 0.0, 0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            found += 1
            total += found / rank
    return total / num_gt


def ap_delg(hits: Sequence[bool], num_gt: int) -> float:
    total, found = 0.0, 0
    for rank, hit in enumerate(hits, start=1):
        if hit:
            before = 1.0 if rank == 1 else found / (rank - 1)
            found += 1
            total += (before + found / rank) / 2
    return total / num_gt


def ap_voc(hits: Sequence[bool], num_gt: int) -> float:
    """Area under the curve made monotone, point by point with sentinels."""
    recall, precision, found = [0.0], [0.0], 0
    for rank, hit in enumerate(hits, start=1):
        found += hit
        recall.append(found / num_gt)
        precision.append(found / rank)
    recall.append(1.0)
    precision.append(0.0)
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def precision_at(hits: Sequence[bool], num_gt: int, k: int) -> float:
    for rank in range(1, k + 1):
        if sum(hits[:rank]) == num_gt:
            return num_gt / rank
    return sum(hits[:k]) / k


def curve(hits: Sequence[bool], num_gt: int) -> list[float]:
    """The best precision at a right box with a recall of at least 0, .01, ..., 1."""
    points = []
    for step in range(101):
        best = 0.0
        for rank in range(1, len(hits) + 1):
            found = sum(hits[:rank])
            if found and hits[rank - 1] and 100 * found >= step * num_gt:
                best = max(best, found / rank)
        points.append(best)
    return points
