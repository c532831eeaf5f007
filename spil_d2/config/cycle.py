"""Keys of cycle self-training: seeds, rank lists, sampling, clustering (CST)."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_cycle_config(cfg: CN) -> None:
    """Add CST, without what its trainings take."""
    cfg.CST = CN()
    # Rounds of the cycle: each updates localizer and ranker from the same rank lists. The released
    # code loops twice.
    cfg.CST.ROUNDS = 4
    _add_proposals(cfg)
    _add_seeds(cfg)
    _add_rank_lists(cfg)
    _add_agreement(cfg)
    _add_sampling(cfg)
    _add_clustering(cfg)


def _add_proposals(cfg: CN) -> None:
    # Class-agnostic boxes of a picture: what seeds are drawn from, and baselines of localization.
    cfg.CST.PROPOSALS = CN()
    # Best boxes of a picture.
    cfg.CST.PROPOSALS.MAX_BOXES = 100
    # Least side in pixels of the picture.
    cfg.CST.PROPOSALS.MIN_SIDE = 10.0
    cfg.CST.PROPOSALS.EDGE_BOXES = CN()
    # Path of the structured forest's model.yml.gz (opencv_extra); "" thins colour gradients.
    cfg.CST.PROPOSALS.EDGE_BOXES.MODEL = ""
    # The longer side that a picture is shrunk to, in pixels; 0: as it is. The official code's
    # quarter of 1920x1080 is 480, where pictures of fine textures take 10 s without MODEL.
    cfg.CST.PROPOSALS.EDGE_BOXES.LONGER_SIDE = 320
    # In pixels of the shrunk picture; OpenCV's default.
    cfg.CST.PROPOSALS.EDGE_BOXES.MIN_BOX_AREA = 1000.0
    cfg.CST.PROPOSALS.SELECTIVE_SEARCH = CN()
    # As above.
    cfg.CST.PROPOSALS.SELECTIVE_SEARCH.LONGER_SIDE = 320
    # "fast" or "quality".
    cfg.CST.PROPOSALS.SELECTIVE_SEARCH.MODE = "fast"
    # The detector is that of SEARCH.DETECTOR (CONFIG_FILE, WEIGHTS).
    cfg.CST.PROPOSALS.DETECTOR = CN()
    cfg.CST.PROPOSALS.DETECTOR.SCORE_THRESHOLD = 0.02
    cfg.CST.PROPOSALS.DETECTOR.NMS_THRESHOLD = 0.3
    # Square roots of areas in pixels, height / width, step as a part of the side.
    cfg.CST.PROPOSALS.SLIDING_WINDOW = CN()
    cfg.CST.PROPOSALS.SLIDING_WINDOW.SIZES = [70, 140, 210, 280, 350, 420]
    cfg.CST.PROPOSALS.SLIDING_WINDOW.RATIOS = [0.5, 1.0, 2.0]
    cfg.CST.PROPOSALS.SLIDING_WINDOW.STRIDE = 1.0


def _add_seeds(cfg: CN) -> None:
    cfg.CST.SEEDS = CN()
    # Of all sources together, in equal shares.
    cfg.CST.SEEDS.NUM = 30000
    # Sources of proposals: "detector", "selective_search", "edge_boxes", "grid", "sliding_window",
    # "whole_image". The released INS configurations take "detector" alone.
    cfg.CST.SEEDS.SOURCES = ["detector", "selective_search", "edge_boxes"]
    # Best proposals of a picture and source that seeds are drawn from.
    cfg.CST.SEEDS.TOP_K = 5
    # Which proposals may be seeds: least side in pixels; largest ratio of the sides, 0 for any;
    # parts of the picture's area.
    cfg.CST.SEEDS.MIN_SIDE = 10.0
    cfg.CST.SEEDS.MAX_ASPECT = 0.0
    cfg.CST.SEEDS.MIN_AREA = 0.0
    cfg.CST.SEEDS.MAX_AREA = 1.0
    # Of the draw of seeds and the split into shards.
    cfg.CST.SEEDS.SEED = 0


def _add_rank_lists(cfg: CN) -> None:
    cfg.CST.RANK_LISTS = CN()
    # Images that a seed is searched in: "all" unlabeled ones (the paper); "shard": one of
    # NUM_SHARDS random parts, another in each round; "shortlist": the SHORTLIST images whose
    # regions look most like it; "own": its own image and FOLDER_NEIGHBORS files before and after
    # it in the same folder (the released code, with KEEP_OWN_IMAGE; its default is 2, its INS
    # configurations have 0).
    cfg.CST.RANK_LISTS.SCOPE = "all"
    cfg.CST.RANK_LISTS.NUM_SHARDS = 1
    cfg.CST.RANK_LISTS.SHORTLIST = 100
    cfg.CST.RANK_LISTS.FOLDER_NEIGHBORS = 0
    # The image that a seed was taken from is searched and trained on too.
    cfg.CST.RANK_LISTS.KEEP_OWN_IMAGE = False


def _add_agreement(cfg: CN) -> None:
    cfg.CST.AGREEMENT = CN()
    # A round trains on the boxes that most of its rank lists have, with lists among themselves, and
    # the next round searches for these (beyond the paper). False: the same seeds in all rounds.
    cfg.CST.AGREEMENT.ENABLED = False
    # Boxes of an image, at most, and votes that each needs. Every seed has one vote on an image.
    cfg.CST.AGREEMENT.PER_IMAGE = 1
    cfg.CST.AGREEMENT.MIN_VOTES = 2
    # A box votes for one that it overlaps more.
    cfg.CST.AGREEMENT.VOTE_IOU = 0.7
    # Largest overlap of two boxes of an image.
    cfg.CST.AGREEMENT.SUPPRESS_IOU = 0.3
    # Boxes that vote on an image, at most: those that look most like their seeds.
    cfg.CST.AGREEMENT.MAX_VOTERS = 1000
    # "grabcut": the boxes are brought to the borders of what they hold (see SPIL.REFINE_BOXES).
    cfg.CST.AGREEMENT.REFINE_BOXES = "none"


def _add_sampling(cfg: CN) -> None:
    # Similarity-guided sampling of the localizer's training pairs (Eq. 8).
    cfg.CST.SAMPLING = CN()
    # "sgs" (the paper), "topk" (all of the first TOP_K alike; the released code), or "threshold"
    # (all with a similarity of at least THRESHOLD alike).
    cfg.CST.SAMPLING.STRATEGY = "sgs"
    # Regions of a seed that targets are drawn from; -1: all. The released code takes 1, its
    # ablation 2, 5 and 20.
    cfg.CST.SAMPLING.TOP_K = 20
    cfg.CST.SAMPLING.THRESHOLD = 0.001
    # "sgs" draws with probability ~ ((s + 1) / 2) ** POWER; 1 is the paper.
    cfg.CST.SAMPLING.POWER = 1.0
    # Part of the seeds that a round trains both models on: those whose first SEED_TOP_K regions
    # look most like them. A seed on background finds nothing that does. 1 (the paper): all.
    cfg.CST.SAMPLING.SEED_FRACTION = 1.0
    cfg.CST.SAMPLING.SEED_TOP_K = 3
    # Only the best region of an image is drawn.
    cfg.CST.SAMPLING.ONE_BOX_PER_IMAGE = True


def _add_clustering(cfg: CN) -> None:
    # Pseudo identities of the ranker's training crops: DBSCAN on S = V + IoU.
    cfg.CST.CLUSTERING = CN()
    # First regions of each seed's list that are clustered. The released code takes 1, its
    # ablation 2, 5 and 20.
    cfg.CST.CLUSTERING.TOP_K = 5
    # Distance of two regions, whose cosine is V:
    #   "bonus": 1 - min(V + IOU_WEIGHT * IoU, 1), the paper's S with EPS on the cosine's scale;
    #   "sum": 2 - (V + IoU), the same S as the released code writes it; links across images need
    #     EPS > 1 (EPS 1.25 equals "bonus" with 0.25);
    #   "penalty": (1 - V) + IOU_WEIGHT * (1 - IoU) on one image, 1 - V across images;
    #   "cosine": 1 - V, what the released configurations do.
    cfg.CST.CLUSTERING.MODE = "bonus"
    # Largest distance of two linked regions. The released configurations have 0.2 or 0.25.
    cfg.CST.CLUSTERING.EPS = 0.25
    # In (0, 100): EPS is this percentile of the distances to the nearest region of another image
    # instead, on the scale of MODE; 0 takes EPS.
    cfg.CST.CLUSTERING.EPS_PERCENTILE = 0.0
    # Regions within EPS, itself counted, that make a region the core of a cluster.
    cfg.CST.CLUSTERING.MIN_SAMPLES = 2
    cfg.CST.CLUSTERING.IOU_WEIGHT = 1.0
    # Neighbours of a region in the graph, by cosine.
    cfg.CST.CLUSTERING.NUM_NEIGHBORS = 30
    # The largest clusters are kept, members of the others are noise; 0 keeps all.
    cfg.CST.CLUSTERING.MAX_CLUSTERS = 10000
    # More regions than this are compared approximately, by FAISS.
    cfg.CST.CLUSTERING.EXACT_LIMIT = 50000
