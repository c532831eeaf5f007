"""Keys of few-shot base training, of detection with class kernels, and of its steps."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_few_shot_detection_config(cfg: CN) -> None:
    """Add what few-shot detection takes beside the stages."""
    # What tools/train_net.py does: "" (instance search), "base" (base training), "novel" (stages on
    # the novel classes' shots, then detection), or a step of the fine-tuned baseline (see TFA).
    cfg.FEW_SHOT.STEP = ""
    # A few-shot task by the name it is registered under, e.g. "groceries25".
    cfg.FEW_SHOT.DATASET = ""
    # K: annotated boxes of a class.
    cfg.FEW_SHOT.SHOTS = 10
    # Which draw of shots.
    cfg.FEW_SHOT.SEED = 0
    # Run the self-paced stages in the step "novel"; False detects with MODEL.WEIGHTS as they are.
    cfg.FEW_SHOT.SELF_TRAINING = True
    # OUTPUT_DIR of a finished step "novel": its weights and expansion detect, nothing is trained.
    cfg.FEW_SHOT.TRAINED_RUN = ""
    # Classes that are looked for in the test images: "novel", or "all": the base classes too, by
    # the kernels of their own K shots.
    cfg.FEW_SHOT.TEST_CLASSES = "novel"
    # Detections are in the order of p * similarity ** GAMMA; their scores are the (1 + GAMMA)th
    # root of it. -1.0 chooses among GAMMAS by AP50 on held-out base images.
    cfg.FEW_SHOT.GAMMA = 0.0
    cfg.FEW_SHOT.GAMMAS = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    # Held-out base images that GAMMA is chosen on, at most.
    cfg.FEW_SHOT.GAMMA_IMAGES = 200
    # The similarity is a cosine seen from the mean descriptor of so many unlabeled pictures at
    # most; 0: seen from 0, as features are.
    cfg.FEW_SHOT.CENTRE_IMAGES = 200
    # Pictures of detections that are drawn of each class.
    cfg.FEW_SHOT.NUM_PICTURES = 8
    cfg.FEW_SHOT.BASE = CN()
    # KEY VALUE ... of the base training alone, e.g. its schedule.
    cfg.FEW_SHOT.BASE.OPTS = []
    # Support crops are taken of so many boxes of a class at most; -1: of all. With
    # MODEL.QUERY.CACHE_VECTORS each costs one vector in memory and one crop's encoding.
    cfg.FEW_SHOT.BASE.MAX_SUPPORTS = 200
    # Boxes whose longer side has fewer pixels become support crops only where others are few.
    cfg.FEW_SHOT.BASE.MIN_SUPPORT_SIDE = 32
    # The detector that a few-shot run exports (META_ARCHITECTURE "ClassRCNN").
    cfg.MODEL.CLASS_DETECTOR = CN()
    # Names of its classes.
    cfg.MODEL.CLASS_DETECTOR.CLASSES = []
    # Of one class's kernel, e.g. [1024].
    cfg.MODEL.CLASS_DETECTOR.KERNEL_SHAPE = []
    # Of one class's descriptor; 0 where GAMMA is 0.
    cfg.MODEL.CLASS_DETECTOR.DESCRIPTOR_WIDTH = 0
    cfg.MODEL.CLASS_DETECTOR.GAMMA = 0.0
