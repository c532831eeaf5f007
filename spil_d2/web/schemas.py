"""What the page sends and what it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from ..structures import SearchHit

Coordinate = Annotated[float, Field(allow_inf_nan=False)]
ImageId = Annotated[int, Field(ge=0, lt=2**63)]
Token = Annotated[str, Field(max_length=64)]
QueryBox = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
# `WebSettings` has the limits that users meet. These bound what is parsed before, and of a long
# list of mistakes the first says enough.
_MOST_REFERENCES, _MOST_BOXES, _MOST_EXCLUDED = 100, 1000, 100_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReferenceBody(_Body):
    """One query picture: of the index or uploaded, with boxes in its displayed pixels.

    Without a box the whole picture is meant.
    """

    image_id: ImageId | None = None
    upload: Token | None = None
    boxes: Annotated[list[QueryBox], FailFast(), Field(max_length=_MOST_BOXES)] = []

    @model_validator(mode="after")
    def _names_one_picture(self) -> ReferenceBody:
        if (self.image_id is None) == (self.upload is None):
            raise ValueError("a query picture has either an image_id or an upload")
        return self


class SearchBody(_Body):
    """A search; see `Searcher.search`."""

    references: Annotated[
        list[ReferenceBody], FailFast(), Field(min_length=1, max_length=_MOST_REFERENCES)
    ]
    k: int = Field(50, ge=1)
    combine: Literal["mean", "max"] = "mean"
    excluded: Annotated[list[ImageId], FailFast(), Field(max_length=_MOST_EXCLUDED)] = []


def hit_to_json(hit: SearchHit, width: int, height: int) -> dict:
    """A hit with what the page draws.

    Args:
        hit: of a search or of a refinement.
        width, height: of its picture as displayed, in pixels.

    Returns:
        `SearchHit.to_dict` and image_id, width, height; mask (COCO's compressed RLE as text) and
        outline, where there is a mask.
    """
    answer = {**hit.to_dict(), "image_id": hit.image_id, "width": width, "height": height}
    if hit.mask is not None:
        counts = hit.mask["counts"]
        text = counts.decode("ascii") if isinstance(counts, bytes) else counts
        answer["mask"] = {"size": [int(one) for one in hit.mask["size"]], "counts": text}
        answer["outline"] = outline(answer["mask"])
    return answer


def outline(rle: dict) -> list[list[int]]:
    """Polygons around a mask and its holes, [x0, y0, x1, y1, ...] in displayed pixels.

    Args:
        rle: COCO's compressed RLE.
    """
    mask = np.ascontiguousarray(coco_mask.decode(rle))
    contours: Sequence[np.ndarray]
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [[int(v) for v in one.reshape(-1)] for one in contours if len(one) > 2]
