#!/usr/bin/env python3
"""Run a detector on pictures or a video and draw what it finds.

Takes Detectron2's demo arguments, any of its detectors, and those that few-shot runs export.

    python demo/demo.py --config-file DETECTOR/config.yaml --input a.jpg b.jpg --output drawn/
    python demo/demo.py --config-file DETECTOR/config.yaml --input 'frames/*.png' --output drawn/
    python demo/demo.py --config-file DETECTOR/config.yaml --video-input in.mp4 --output out.mp4
    python demo/demo.py --config-file ... --input a.jpg --output a_drawn.jpg \\
        --confidence-threshold 0.7 --opts MODEL.DEVICE cpu
"""

from __future__ import annotations

import argparse
import glob
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import tqdm
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine.defaults import DefaultPredictor
from detectron2.structures import Instances
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, Visualizer

from spil_d2 import get_cfg
from spil_d2.engine.presets import resolve_config
from spil_d2.utils.allocator import keep_freed_memory
from spil_d2.utils.checkpoints import SafeCheckpointer
from spil_d2.utils.picture_files import read_pixels

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "MJPG", ".mov": "mp4v"}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: code 2, where it makes no sense.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="yaml of the detector")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="FILE", help="pictures, or one pattern such as 'a/*.jpg'"
    )
    source.add_argument("--video-input", metavar="FILE", help="a video")
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="a folder, or for a single picture or a video the file to write",
    )
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="least score that is drawn"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... of the configuration"
    )
    return parser.parse_args(argv)


def build_config(path: Path, opts: Sequence[str], threshold: float) -> CfgNode:
    """The detector's configuration.

    Weights beside a configuration whose MODEL.WEIGHTS names a file that is gone are taken: the
    folder may have been moved.
    """
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    beside = path.parent / Path(cfg.MODEL.WEIGHTS).name
    is_address = "://" in cfg.MODEL.WEIGHTS
    if not is_address and not Path(cfg.MODEL.WEIGHTS).is_file() and beside.is_file():
        cfg.MODEL.WEIGHTS = str(beside)
    cfg.merge_from_list(list(opts))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min(threshold, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)
    resolve_config(cfg)
    cfg.freeze()
    return cfg


def class_metadata(cfg: CfgNode) -> Metadata:
    """Names of the classes, for the drawing."""
    if cfg.MODEL.CLASS_DETECTOR.CLASSES:
        return Metadata(thing_classes=list(cfg.MODEL.CLASS_DETECTOR.CLASSES))
    return MetadataCatalog.get(cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused")


class Demo:
    """A detector and how its results are drawn."""

    def __init__(self, cfg: CfgNode, threshold: float):
        """
        Args:
            cfg: frozen, with weights.
            threshold: least score that is drawn.
        """
        without = cfg.clone()
        without.defrost()
        # Detectron2's predictor would read the weights in its own, unsafe way.
        without.MODEL.WEIGHTS = ""
        self._predictor = DefaultPredictor(without)
        SafeCheckpointer(self._predictor.model).load(cfg.MODEL.WEIGHTS)
        self._metadata = class_metadata(cfg)
        self._threshold = threshold
        self._video = VideoVisualizer(self._metadata, ColorMode.IMAGE)

    def detect(self, image: np.ndarray) -> Instances:
        """Instances above the threshold, on the CPU, of a picture (H, W, 3) uint8 BGR."""
        found = self._predictor(image)["instances"].to("cpu")
        return found[found.scores >= self._threshold]

    def draw(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """The picture with its instances, both (H, W, 3) uint8 BGR."""
        canvas = Visualizer(image[:, :, ::-1], self._metadata, instance_mode=ColorMode.IMAGE)
        return canvas.draw_instance_predictions(found).get_image()[:, :, ::-1]

    def draw_frame(self, frame: np.ndarray, found: Instances) -> np.ndarray:
        """As `draw`; an object keeps its colour from frame to frame."""
        drawn = self._video.draw_instance_predictions(frame[:, :, ::-1], found)
        return np.ascontiguousarray(drawn.get_image()[:, :, ::-1])


def run_on_pictures(demo: Demo, inputs: Sequence[str], output: Path) -> None:
    """Draw each picture into a folder, or a single one into a file."""
    output_is_folder = len(inputs) > 1 or output.is_dir() or not output.suffix
    (output if output_is_folder else output.parent).mkdir(parents=True, exist_ok=True)
    for path in tqdm.tqdm(inputs, disable=len(inputs) < 2):
        image = read_pixels(path, "BGR")
        started = time.monotonic()
        found = demo.detect(image)
        print(f"{path}: {len(found)} instances in {time.monotonic() - started:.2f} s")
        target = output / Path(path).name if output_is_folder else output
        if not cv2.imwrite(str(target), demo.draw(image, found)):
            raise OSError(f"{target} cannot be written: does its name end like a picture?")


def run_on_video(demo: Demo, source: str, output: Path) -> None:
    """Draw each frame of a video into another one.

    Raises:
        ValueError: the video cannot be read or written.
    """
    video = cv2.VideoCapture(source)
    try:
        if not video.isOpened():
            raise ValueError(f"{source} is not a video that OpenCV reads")
        target = output / f"{Path(source).stem}.mp4" if not output.suffix else output
        if target.suffix.lower() not in CODECS:
            raise ValueError(f"{target}: a video's name must end with one of {', '.join(CODECS)}")
        target.parent.mkdir(parents=True, exist_ok=True)
        size = tuple(int(video.get(key)) for key in (3, 4))
        codec = cv2.VideoWriter_fourcc(*CODECS[target.suffix.lower()])
        writer = cv2.VideoWriter(str(target), codec, video.get(cv2.CAP_PROP_FPS) or 25.0, size)
        if not writer.isOpened():
            raise ValueError(f"OpenCV cannot write {target}: try a name that ends with .avi")
        try:
            total = max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) or None
            for frame in tqdm.tqdm(_frames(video), total=total):
                drawn = demo.draw_frame(frame, demo.detect(frame))
                writer.write(cv2.resize(drawn, size))
        finally:
            writer.release()
    finally:
        video.release()
    print(f"{target} is written")


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        is_there, frame = video.read()
        if not is_there:
            return
        yield frame


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, or 1 with a line on stderr where it failed."""
    args = parse_arguments(argv)
    keep_freed_memory()
    try:
        cfg = build_config(Path(args.config_file), args.opts, args.confidence_threshold)
        demo = Demo(cfg, args.confidence_threshold)
        if args.video_input:
            run_on_video(demo, args.video_input, Path(args.output))
            return 0
        inputs = args.input
        if len(inputs) == 1 and not Path(inputs[0]).is_file():
            inputs = sorted(glob.glob(str(Path(inputs[0]).expanduser())))
        if not inputs:
            raise FileNotFoundError(f"{args.input[0]} names no picture")
        run_on_pictures(demo, inputs, Path(args.output))
    except (OSError, ValueError, KeyError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
