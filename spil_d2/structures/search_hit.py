"""One result of a search as the user sees it."""

from __future__ import annotations

from dataclasses import dataclass

from .query import Box


@dataclass(frozen=True)
class SearchHit:
    """A picture of the index in which the instance may be.

    Attributes:
        rank: from 1.
        image: path relative to the indexed folder, with forward slashes.
        image_id: of the index.
        box: (x0, y0, x1, y1) in pixels of the picture as displayed (EXIF applied).
        score: calibrated probability in [0, 1] that the instance is there.
        similarity: cosine in [-1, 1] of the query and the region.
        mask: of the instance, COCO's compressed RLE of the displayed picture; None where no
            localizer with a mask head has run.
    """

    rank: int
    image: str
    image_id: int
    box: Box
    score: float
    similarity: float
    mask: dict | None = None

    def to_dict(self) -> dict:
        """What `spil-d2 search --json` writes of this hit."""
        return {
            "image": self.image,
            "box": [round(value, 2) for value in self.box],
            "score": round(self.score, 6),
            "similarity": round(self.similarity, 6),
            "rank": self.rank,
        }
