"""The things of the demo gallery: cut out of photographs that the scikit-image wheel ships."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

PHOTOGRAPHS = Path(skimage.__file__).resolve().parent / "data"
# A drawn silhouette becomes a sticker with a paper rim of this many pixels.
_STICKER_RIM = 11


@dataclass(frozen=True)
class Cutout:
    """One thing in a photograph; exactly one way of giving its outline is used.

    Attributes:
        name: what it is.
        photograph: file name in scikit-image's data folder.
        polygon: outline, "x,y x,y ..." in pixels of the photograph.
        ellipse: (centre x, centre y, half width, half height) in pixels.
        box: (x0, y0, x1, y1) in pixels.
        is_sticker: the outline is the dark drawing on the photograph, with a rim around it.
        is_instance: searched for; the others only fill distractor images.
    """

    name: str
    photograph: str
    polygon: str = ""
    ellipse: tuple[float, float, float, float] | None = None
    box: tuple[int, int, int, int] | None = None
    is_sticker: bool = False
    is_instance: bool = True


CUTOUTS = (
    Cutout(
        "coffee_cup",
        "coffee.png",
        polygon=(
            "281,17 247,23 216,38 189,62 180,77 172,76 141,94 114,119 94,152 82,189 81,227 "
            "90,270 107,304 136,336 173,361 219,380 267,388 313,388 351,382 391,367 432,338 "
            "455,310 470,276 479,237 478,199 469,172 451,141 429,119 415,110 424,79 415,66 "
            "398,74 386,57 371,42 341,26 307,18"
        ),
    ),
    Cutout(
        "cat_face",
        "chelsea.png",
        polygon=(
            "60,10 110,3 200,2 290,3 325,20 340,60 352,90 362,125 358,155 345,185 330,205 "
            "320,235 300,262 275,278 250,283 215,278 185,262 150,255 110,240 75,205 45,165 "
            "38,120 36,80 42,40"
        ),
    ),
    Cutout(
        "astronaut_head",
        "astronaut.png",
        polygon=(
            "227,16 212,22 205,21 201,23 189,35 174,43 156,58 153,68 155,98 159,107 170,116 "
            "170,121 174,128 182,132 184,147 161,149 140,158 129,170 126,182 122,181 120,194 "
            "118,195 120,205 117,204 116,200 114,200 113,205 119,213 119,218 121,220 124,218 "
            "131,231 140,240 146,255 163,268 172,272 177,279 202,293 211,293 228,298 232,296 "
            "240,298 275,291 286,281 305,253 303,231 294,210 276,189 255,173 256,163 264,149 "
            "266,137 275,134 290,117 296,107 301,85 296,58 282,36 251,19"
        ),
    ),
    Cutout(
        "space_helmet",
        "astronaut.png",
        polygon=(
            "276,511 278,470 285,440 300,405 318,378 345,357 375,345 400,342 430,348 455,362 "
            "475,385 490,415 497,450 503,460 511,470 511,511"
        ),
    ),
    Cutout(
        "shuttle_model",
        "astronaut.png",
        polygon=(
            "423,0 408,0 404,6 398,24 397,48 393,52 390,52 380,63 381,96 384,106 378,115 "
            "378,183 357,210 357,219 359,223 375,224 380,229 380,233 367,260 367,272 369,274 "
            "368,283 373,289 406,290 416,280 425,280 427,277 432,282 450,282 459,280 459,272 "
            "455,269 455,266 458,263 458,257 454,247 454,234 452,232 452,227 455,225 455,211 "
            "453,205 455,67 450,61 447,50 444,47 437,46 434,23"
        ),
    ),
    Cutout(
        "flag",
        "astronaut.png",
        polygon=("0,0 54,0 64,88 44,118 70,145 85,165 96,218 72,238 50,262 40,285 30,330 0,330"),
    ),
    Cutout(
        "motorcycle",
        "motorcycle_left.png",
        polygon=(
            "138,150 150,146 165,160 220,165 245,168 262,190 290,198 320,196 345,190 355,190 "
            "385,175 420,163 455,160 470,158 468,145 468,125 490,115 497,105 495,85 510,80 "
            "515,90 545,100 540,105 528,108 536,118 555,123 562,130 575,120 582,130 575,142 "
            "562,143 558,165 552,185 553,200 548,208 575,255 580,265 600,270 620,275 640,295 "
            "643,305 637,315 660,345 680,385 683,405 670,435 645,450 625,450 590,438 560,415 "
            "535,385 518,350 512,330 505,328 503,310 510,290 518,280 505,265 502,250 505,235 "
            "490,225 475,232 470,245 480,252 480,265 470,285 478,300 474,330 460,355 435,372 "
            "405,380 365,377 342,375 340,430 322,433 332,425 328,385 320,370 290,360 275,365 "
            "260,380 240,393 210,402 180,395 155,380 135,355 123,325 122,295 130,270 143,250 "
            "120,240 105,245 103,235 95,220 92,208 92,200 125,195 145,207 150,200 138,180"
        ),
    ),
    Cutout(
        "rocket",
        "rocket.jpg",
        polygon=(
            "311,135 316,126 322,126 328,135 332,170 336,185 337,260 338,405 306,405 309,260 "
            "309,180"
        ),
    ),
    Cutout("mission_patch", "astronaut.png", ellipse=(171.0, 385.5, 36.5, 36.5)),
    Cutout("coin_warrior", "coins.png", ellipse=(334.5, 43.5, 29.0, 28.0)),
    Cutout("coin_face", "coins.png", ellipse=(212.5, 193.0, 23.5, 23.5)),
    Cutout("logo", "logo.png", ellipse=(250.0, 250.0, 242.0, 242.0)),
    Cutout("retina", "retina.jpg", ellipse=(705.0, 705.0, 672.0, 672.0)),
    Cutout("printed_page", "page.png", box=(0, 0, 384, 191)),
    Cutout("formula_sheet", "text.png", box=(0, 0, 448, 172)),
    Cutout("horse_sticker", "horse.png", is_sticker=True),
    Cutout("coin_profile", "coins.png", ellipse=(46.0, 260.0, 27.0, 27.0), is_instance=False),
    Cutout("colour_wheel", "color.png", ellipse=(185.0, 185.0, 178.0, 178.0), is_instance=False),
    Cutout("phantom", "phantom.png", ellipse=(200.0, 200.0, 136.0, 182.0), is_instance=False),
)


@cache
def read_photograph(name: str) -> np.ndarray:
    """A shipped photograph: (H, W, 3) uint8 RGB, transparent parts white.

    Raises:
        FileNotFoundError: this scikit-image does not ship it.
    """
    path = PHOTOGRAPHS / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not in this scikit-image wheel ({skimage.__version__}); install "
            "scikit-image 0.25 or 0.26, whose wheels ship the photographs of the demo gallery"
        )
    with Image.open(path) as picture:
        rgba = np.asarray(picture.convert("RGBA"), np.float32)
    alpha = rgba[..., 3:] / 255
    return (rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def cutout_mask(cutout: Cutout) -> np.ndarray:
    """Where the thing is on its photograph: (H, W) uint8, 0 or 1."""
    photograph = read_photograph(cutout.photograph)
    height, width = photograph.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    if cutout.polygon:
        points = [[int(v) for v in pair.split(",")] for pair in cutout.polygon.split()]
        cv2.fillPoly(mask, [np.array(points, np.int32)], 1)
    elif cutout.ellipse is not None:
        x, y, half_width, half_height = cutout.ellipse
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        inside = ((columns - x) / half_width) ** 2 + ((rows - y) / half_height) ** 2 <= 1
        mask[inside] = 1
    elif cutout.box is not None:
        x0, y0, x1, y1 = cutout.box
        mask[y0:y1, x0:x1] = 1
    elif cutout.is_sticker:
        mask[photograph.mean(axis=2) < 128] = 1
        side = 2 * _STICKER_RIM + 1
        rim = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        mask = np.asarray(cv2.dilate(mask, rim))
    else:
        raise ValueError(f"cut-out {cutout.name!r} has no outline")
    return mask


@cache
def instances_mask(photograph: str) -> np.ndarray:
    """Where the searched-for things are on a photograph: (H, W) uint8, 0 or 1."""
    total = np.zeros(read_photograph(photograph).shape[:2], np.uint8)
    for cutout in CUTOUTS:
        if cutout.is_instance and cutout.photograph == photograph:
            total |= cutout_mask(cutout)
    return total
