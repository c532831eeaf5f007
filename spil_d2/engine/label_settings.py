"""What the localizer adds to its labels of a stage in few-shot detection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelSettings:
    """A second look at boxes, and the regions around labels that are no background.

    Attributes:
        second_pass: pseudo labels are boxes of a second pass.
        final_second_pass: so are the boxes of the final lists.
        ignore_margin: other boxes with p > tau - ignore_margin in a labelled image are ignore
            regions (D20); None for no such regions.
        ignore_max_iou: unless their IoU with the label is larger.
    """

    second_pass: bool = False
    final_second_pass: bool = False
    ignore_margin: float | None = None
    ignore_max_iou: float = 0.5

    @classmethod
    def from_config(cls, cfg) -> LabelSettings:
        """Of FEW_SHOT.SECOND_PASS and FEW_SHOT.IGNORE_OTHERS.

        Raises:
            ValueError: naming the key that does not fit.
        """
        second, others = cfg.FEW_SHOT.SECOND_PASS, cfg.FEW_SHOT.IGNORE_OTHERS
        if others.MARGIN < 0 or not 0 < others.MAX_IOU <= 1:
            raise ValueError(
                f"FEW_SHOT.IGNORE_OTHERS.MARGIN is {others.MARGIN} and MAX_IOU {others.MAX_IOU}: "
                "use a margin >= 0, and an IoU in (0, 1]"
            )
        if others.ENABLED and cfg.TEST.DETECTIONS_PER_IMAGE < 2:
            raise ValueError(
                "FEW_SHOT.IGNORE_OTHERS needs the boxes beside the best one, but "
                f"TEST.DETECTIONS_PER_IMAGE is {cfg.TEST.DETECTIONS_PER_IMAGE}: use e.g. 100"
            )
        return cls(
            second.LABELS,
            second.FINAL,
            others.MARGIN if others.ENABLED else None,
            others.MAX_IOU,
        )
