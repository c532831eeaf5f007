"""Names of a few-shot task's data sets, and of what its steps leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog


@dataclass(frozen=True)
class FewShotTask:
    """A registered task, one K and one draw of shots.

    Attributes:
        name: it is registered under, e.g. "groceries25".
        shots: K.
        seed: of the draw.
    """

    name: str
    shots: int
    seed: int

    def __post_init__(self) -> None:
        known = DatasetCatalog.list()
        if self.base_train not in known:
            ends = [name for name in known if name.endswith("_base_train")]
            names = sorted(name.removesuffix("_base_train") for name in ends)
            raise ValueError(
                f"FEW_SHOT.DATASET is {self.name!r}, which is not registered; there are {names}. "
                "datasets/README.md says where few-shot data is looked for"
            )
        if self.search not in known:
            start, end = f"{self.name}_", "_shots"
            drawn = [one for one in known if one.startswith(start) and one.endswith(end)]
            names = sorted(one.removeprefix(start).removesuffix(end) for one in drawn)
            raise ValueError(
                f"{self.name} has no {self.shots} shots of seed {self.seed} (FEW_SHOT.SHOTS and "
                f"SEED); it has {names}"
            )

    @classmethod
    def from_config(cls, cfg) -> FewShotTask:
        return cls(cfg.FEW_SHOT.DATASET, cfg.FEW_SHOT.SHOTS, cfg.FEW_SHOT.SEED)

    @property
    def base_train(self) -> str:
        """Images with base boxes."""
        return f"{self.name}_base_train"

    @property
    def base_val(self) -> str:
        """What is held out of `base_train`, for choices."""
        return f"{self.name}_base_val"

    @property
    def test(self) -> str:
        """Test images with all boxes."""
        return f"{self.name}_test"

    @property
    def search(self) -> str:
        """The novel shots as queries, the unlabeled images as the gallery."""
        return f"{self.name}_{self.shots}shot_seed{self.seed}"

    @property
    def shot_records(self) -> str:
        """One record for each annotation of base and novel shots."""
        return f"{self.search}_shots"


def with_keys(cfg, **changes: Any) -> CfgNode:
    """A frozen copy with other values.

    Args:
        cfg: to copy.
        changes: KEY=value, or NODE__KEY=value for a key of a node.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for key, value in changes.items():
        *path, last = key.split("__")
        node = cfg
        for name in path:
            node = node[name]
        node[last] = value
    cfg.freeze()
    return cfg


def with_options(cfg, opts: Sequence) -> CfgNode:
    """A frozen copy with KEY VALUE ... merged into it."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    cfg.freeze()
    return cfg
