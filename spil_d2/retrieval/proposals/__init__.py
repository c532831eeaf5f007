"""Sources of boxes that may hold an object; importing registers them."""

from .base import PROPOSAL_REGISTRY, ProposalSource, build_proposal_source
from .detector import DetectorProposals
from .edge_boxes import EdgeBoxes
from .selective_search import SelectiveSearch
from .windows import Grid, SlidingWindow, WholeImage

__all__ = [
    "DetectorProposals",
    "EdgeBoxes",
    "Grid",
    "PROPOSAL_REGISTRY",
    "ProposalSource",
    "SelectiveSearch",
    "SlidingWindow",
    "WholeImage",
    "build_proposal_source",
]
