"""What the user asks for: one instance, shown by one or several boxes on pictures."""

from __future__ import annotations

from dataclasses import dataclass

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Reference:
    """One picture of the instance.

    Attributes:
        file_name: path of the picture, absolute or relative to the working directory.
        width, height: size of the stored picture in pixels.
        box: (x0, y0, x1, y1), XYXY_ABS in pixels of the stored picture, inside it, with area > 0.
        image_id: the gallery image this is, or None for a picture from outside the gallery.
    """

    file_name: str
    width: int
    height: int
    box: Box
    image_id: int | None = None

    def __post_init__(self) -> None:
        if len(self.box) != 4:
            raise ValueError(f"{self.file_name}: a box is (x0, y0, x1, y1), got {self.box}")
        x0, y0, x1, y1 = self.box
        if not (0 <= x0 < x1 <= self.width and 0 <= y0 < y1 <= self.height):
            raise ValueError(
                f"{self.file_name}: box {self.box} is empty or outside the picture of "
                f"{self.width}x{self.height} pixels"
            )


@dataclass(frozen=True)
class Query:
    """One instance to search for.

    Attributes:
        id: unique among the queries of a dataset.
        references: at least one; training localizes the first (q_i, u_i of the SPIL paper).
        instance_id: the identity, where it is known; used by evaluation only.
        category_id: the class, where training may know it (few-shot detection): queries of one
            class are never foreign to each other. None says nothing of the class.
    """

    id: int
    references: tuple[Reference, ...]
    instance_id: int | None = None
    category_id: int | None = None

    def __post_init__(self) -> None:
        if not self.references:
            raise ValueError(f"query {self.id} has no reference box")
        # A class compares equal to another only if both are of one type: 3 and "3" are not.
        if self.category_id is not None and type(self.category_id) is not int:
            raise ValueError(
                f"query {self.id}: category_id is {self.category_id!r} of type "
                f"{type(self.category_id).__name__}; use an int (the dataset's category id) or None"
            )

    @property
    def primary(self) -> Reference:
        """The first reference."""
        return self.references[0]

    @property
    def own_image_ids(self) -> frozenset[int]:
        """Gallery images the query was taken from: they never count for it."""
        return frozenset(r.image_id for r in self.references if r.image_id is not None)
