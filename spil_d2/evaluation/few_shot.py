"""COCO's metric on base and novel classes apart, and means over several draws of shots."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval
from scipy.stats import t as student_t

from .tables import log_metrics_table

logger = logging.getLogger(__name__)

# Name -> (IoU or None for the mean over .5 to .95, area range) as COCOeval numbers them.
_METRICS: dict[str, tuple[float | None, str]] = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}


class FewShotCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator, whose results are also told for base and novel classes.

    One set of predictions is judged once. COCO matches and accumulates each class by itself, so
    the part of one group of classes is what COCOeval says with `catIds` of that group (spec
    section 6): "bAP", "bAP50", ... of the base classes and "nAP", "nAP50", ... of the novel ones,
    beside "AP", ... of all and "AP-<class>". In percent; NaN where a group has no box of a size.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | Path | None = None,
        distributed: bool = True,
        use_fast_impl: bool = True,
        ims_per_batch: int | None = None,
    ) -> None:
        """
        Args:
            dataset_name: with `base_ids` and `novel_ids` (the dataset's category ids) in its
                metadata, e.g. "groceries25_test". A group without any class of the dataset is not
                told.
            output_dir: where predictions go; needed for datasets without a COCO file.
            distributed: collect the predictions of all processes.
            use_fast_impl: Detectron2's faster COCOeval; False for pycocotools' own.
            ims_per_batch: the batch of the training, told with the result.

        Raises:
            ValueError: the dataset is no few-shot one, or its file cannot be evaluated.
        """
        metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(metadata, "base_ids") or not hasattr(metadata, "novel_ids"):
            raise ValueError(
                f"{dataset_name} has no base_ids and novel_ids; use a view of a few-shot task such "
                "as groceries25_test (datasets/README.md)"
            )
        super().__init__(
            dataset_name,
            tasks=("bbox",),
            distributed=distributed,
            output_dir=None if output_dir is None else str(output_dir),
            use_fast_impl=use_fast_impl,
        )
        self._ims_per_batch = ims_per_batch
        here = set(metadata.thing_dataset_id_to_contiguous_id)
        self._groups = {
            prefix: sorted(here & set(ids))
            for prefix, ids in (("b", metadata.base_ids), ("n", metadata.novel_ids))
        }
        for one in self._coco_api.dataset.get("annotations", ()):
            missing = {"area", "iscrowd"} - set(one)
            if missing:
                raise ValueError(
                    f"{metadata.json_file}: annotation {one.get('id')} has no {sorted(missing)}, "
                    "which COCO's metric asks for; add area (w * h) and iscrowd (0)"
                )

    def _derive_coco_results(
        self,
        coco_eval: COCOeval | None,
        iou_type: str,
        class_names: Sequence[str] | None = None,
    ) -> dict[str, float]:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        tables = {"all": {name: results[name] for name in _METRICS}}
        for prefix, ids in self._groups.items():
            if ids:
                group = group_metrics(coco_eval, ids, prefix)
                tables["base" if prefix == "b" else "novel"] = group
                results.update(group)
        self._log(tables)
        return results

    def _log(self, tables: Mapping[str, Mapping[str, float]]) -> None:
        batch = "unknown" if self._ims_per_batch is None else str(self._ims_per_batch)
        facts = f"world size {comm.get_world_size()}, training batch {batch}"
        log_metrics_table(tables, f"{self._metadata.name} ({facts})")


def group_metrics(
    coco_eval: COCOeval | None, category_ids: Sequence[int], prefix: str
) -> dict[str, float]:
    """COCO's six box metrics of some of the classes that were judged.

    Args:
        coco_eval: after `accumulate`, over all classes; None for no predictions at all, which
            gives NaN as in Detectron2.
        category_ids: the dataset's ids.
        prefix: of the names.

    Returns:
        {prefix + "AP": percent, ...}; NaN where no ground truth is of the size.

    Raises:
        ValueError: a class that was not judged.
    """
    if coco_eval is None:
        return {prefix + name: math.nan for name in _METRICS}
    params = coco_eval.params
    places = {int(one): place for place, one in enumerate(params.catIds)}
    unknown = sorted(set(category_ids) - set(places))
    if unknown:
        raise ValueError(f"classes {unknown} were not judged, only {sorted(places)}")
    # (IoU, recall, class, area range, most detections), the last for 100 an image.
    precision = coco_eval.eval["precision"][..., -1]
    precision = precision[:, :, [places[one] for one in category_ids]]
    results = {}
    for name, (iou, area) in _METRICS.items():
        part = precision[..., params.areaRngLbl.index(area)]
        if iou is not None:
            part = part[np.isclose(params.iouThrs, iou)]
        part = part[part > -1]
        results[prefix + name] = 100.0 * float(part.mean()) if part.size else math.nan
    return results


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95 % confidence interval.

    The interval is Student's: t(.975, n - 1) * s / sqrt(n) with the sample deviation s. With few
    seeds it is wider than the 1.96 * s / sqrt(n) of some papers.

    Args:
        values: one a seed.

    Returns:
        (mean, half width); the half width of a single value is NaN.

    Raises:
        ValueError: no values.
    """
    count = len(values)
    if not count:
        raise ValueError("no values: a mean needs at least one")
    mean = float(np.mean(values))
    if count == 1:
        return mean, math.nan
    deviation = float(np.std(values, ddof=1))
    return mean, float(student_t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
