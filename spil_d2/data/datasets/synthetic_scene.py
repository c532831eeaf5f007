"""Composes one picture of the demo gallery; every mask is known exactly.

Shape shorthand: H, W are the height and width of the picture in pixels. Pictures are (H, W, 3)
uint8 RGB, layers are (H, W, 4) float32 in [0, 255] for colour and [0, 1] for alpha.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from .synthetic_objects import CUTOUTS, Cutout, cutout_mask, instances_mask, read_photograph

Size = tuple[int, int]

# Photograph -> colour casts (factors of R, G, B): grey photographs are tinted now and then.
_BACKGROUNDS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "brick.png": ((1.2, 0.8, 0.68), (1.0, 1.0, 1.0)),
    "camera.png": ((1.0, 1.0, 1.0), (1.08, 0.98, 0.82)),
    "coins.png": ((1.1, 0.95, 0.75), (0.85, 0.95, 1.1)),
    "grass.png": ((0.85, 1.1, 0.6), (1.1, 1.0, 0.65)),
    "gravel.png": ((1.1, 0.98, 0.85), (0.95, 1.0, 1.08)),
    "hubble_deep_field.jpg": ((1.0, 1.0, 1.0),),
    "ihc.png": ((1.0, 1.0, 1.0),),
    "moon.png": ((1.0, 1.0, 1.0), (1.15, 0.95, 0.8)),
    "motorcycle_left.png": ((1.0, 1.0, 1.0),),
    "rocket.jpg": ((1.0, 1.0, 1.0),),
}
_PATCHES = ("brick.png", "grass.png", "gravel.png", "ihc.png")
# The smallest share of a photograph's largest crop of the right shape, and of the picture's area.
_MIN_CROP = 0.28
MIN_AREA, MAX_AREA = 0.05, 0.35
MIN_VISIBLE = 0.6
_MAX_TRIES = 200
# Small things (coins of 50 pixels) are blurred when they are magnified more.
_MAX_SCALE = 2.5
# The garage around the motorcycle leaves little room: about one crop in a hundred is free.
_MAX_CROPS = 300


@dataclass(frozen=True)
class Placement:
    """One searched-for thing in a picture.

    Attributes:
        name: the cut-out's name.
        mask: (H, W) bool, the visible part.
        visible: share of the whole thing (also what lies outside the picture) that is visible.
    """

    name: str
    mask: np.ndarray
    visible: float


@dataclass(frozen=True)
class Scene:
    """A composed picture, (H, W, 3) uint8 RGB, with the things in it."""

    image: np.ndarray
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class _Layer:
    """A picture-sized layer; `area` is that of the whole thing in pixels, `name` None = blob."""

    rgba: np.ndarray
    area: float
    name: str | None

    @property
    def mask(self) -> np.ndarray:
        return self.rgba[..., 3] > 0.5


def compose_scene(
    cutout: Cutout | None, size: Size, rng: np.random.Generator, is_plain: bool = False
) -> Scene:
    """Put a thing, and perhaps others, on a background.

    Args:
        cutout: the thing shown; None composes a distractor that shows no searched-for thing.
        size: (width, height) in pixels.
        rng: the source of all chance.
        is_plain: nothing else is in the picture and nothing covers the thing.

    Returns:
        A scene in which every searched-for thing is at least MIN_VISIBLE visible and covers a
        share of MIN_AREA to MAX_AREA of the picture.

    Raises:
        RuntimeError: no such layout was found, which a change of the cut-outs can cause.
    """
    background = _background(size, rng)
    for _ in range(_MAX_TRIES):
        layers = _draw_layers(cutout, size, rng, is_plain)
        placements = _visible_placements(layers)
        if all(_is_acceptable(p) for p in placements):
            image = _render(background, layers, rng)
            return Scene(image, tuple(placements))
    name = cutout.name if cutout else "distractor"
    raise RuntimeError(
        f"no layout of {name!r} in {size[0]}x{size[1]} pixels covers {MIN_AREA:.0%} to "
        f"{MAX_AREA:.0%} of the picture; change the cut-out's outline or the size"
    )


def _is_acceptable(placement: Placement) -> bool:
    return placement.visible >= MIN_VISIBLE and MIN_AREA <= float(placement.mask.mean()) <= MAX_AREA


def _draw_layers(
    cutout: Cutout | None, size: Size, rng: np.random.Generator, is_plain: bool
) -> list[_Layer]:
    """Layers from back to front."""
    if cutout is None:
        fillers = [c for c in CUTOUTS if not c.is_instance]
        shown = [fillers[rng.integers(len(fillers))]] if rng.random() < 0.7 else []
    else:
        shown = [cutout]
    layers = [_place(c, _draw_area(rng, 0.07, 0.3), size, rng) for c in shown]
    if is_plain:
        return layers
    if cutout is not None and rng.random() < 0.3:
        others = [c for c in CUTOUTS if c.name != cutout.name]
        other = _place(others[rng.integers(len(others))], _draw_area(rng, 0.06, 0.14), size, rng)
        layers.insert(int(rng.integers(2)), other)
    if rng.random() < 0.4:
        near = layers[0].mask if layers else None
        layers.append(_blob(size, near, rng))
    return layers


def _draw_area(rng: np.random.Generator, low: float, high: float) -> float:
    """A share of the picture's area; small things are as frequent as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _background(size: Size, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: a crop that shows none of the searched-for things."""
    while True:
        name = sorted(_BACKGROUNDS)[rng.integers(len(_BACKGROUNDS))]
        crop = _free_crop(name, size, rng)
        if crop is not None:
            break
    x0, y0, width, height = crop
    pixels = read_photograph(name)[y0 : y0 + height, x0 : x0 + width]
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    interpolation = cv2.INTER_AREA if width > size[0] else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, size, interpolation=interpolation).astype(np.float32)
    casts = _BACKGROUNDS[name]
    return resized * np.array(casts[rng.integers(len(casts))], np.float32)


def _free_crop(name: str, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) of a crop in the shape of `size` without any searched-for thing."""
    occupied = instances_mask(name)
    full_height, full_width = occupied.shape
    largest = min(full_width / size[0], full_height / size[1])
    for _ in range(_MAX_CROPS):
        scale = largest * rng.uniform(_MIN_CROP, 1)
        width, height = int(size[0] * scale), int(size[1] * scale)
        x0 = int(rng.integers(full_width - width + 1))
        y0 = int(rng.integers(full_height - height + 1))
        if not occupied[y0 : y0 + height, x0 : x0 + width].any():
            return x0, y0, width, height
    return None


@cache
def _cut(cutout: Cutout) -> np.ndarray:
    """(h, w, 4) float32, the thing in its tight box with alpha 0 or 1."""
    mask = cutout_mask(cutout)
    x, y, w, h = cv2.boundingRect(mask)
    colour = read_photograph(cutout.photograph)[y : y + h, x : x + w].astype(np.float32)
    return np.dstack([colour, mask[y : y + h, x : x + w].astype(np.float32)])


def _place(cutout: Cutout, area: float, size: Size, rng: np.random.Generator) -> _Layer:
    """Scale, turn, tilt and light a thing and put it somewhere in the picture.

    Args:
        area: wanted share of the picture's area; less where the thing would not fit.
        size: (width, height) of the picture in pixels.
    """
    cut = _cut(cutout)
    height, width = cut.shape[:2]
    angle = np.deg2rad(rng.uniform(-28, 28))
    turned_width = width * abs(np.cos(angle)) + height * abs(np.sin(angle))
    turned_height = width * abs(np.sin(angle)) + height * abs(np.cos(angle))
    fit = 1.02 * min(size[0] / turned_width, size[1] / turned_height)
    wanted = np.sqrt(area * size[0] * size[1] / cut[..., 3].sum())
    scale = float(min(wanted, fit, _MAX_SCALE))
    margin = np.array([turned_width, turned_height]) * scale * 0.42
    centre = [
        rng.uniform(min(m, s / 2), max(s - m, s / 2)) for m, s in zip(margin, size, strict=True)
    ]
    small = _resize_cut(cut, scale)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32) / 2
    source = (corners + 0.5) * (small.shape[1], small.shape[0])
    tilted = corners * (1 + rng.uniform(-0.07, 0.07, (4, 1))) * (small.shape[1], small.shape[0])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    target = tilted @ turn + centre
    warp = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
    rgba = cv2.warpPerspective(small, warp, size, flags=cv2.INTER_LINEAR)
    whole = cv2.contourArea(target.astype(np.float32)) * small[..., 3].mean()
    return _Layer(_lit(_feathered(rgba), rng), float(whole), _name_if_searched(cutout))


def _name_if_searched(cutout: Cutout) -> str | None:
    return cutout.name if cutout.is_instance else None


def _resize_cut(cut: np.ndarray, scale: float) -> np.ndarray:
    """Resize with colour weighted by alpha, so that the old background does not bleed in."""
    shape = (max(2, round(cut.shape[1] * scale)), max(2, round(cut.shape[0] * scale)))
    if scale < 1:
        weighted = np.dstack([cut[..., :3] * cut[..., 3:], cut[..., 3]])
        resized = cv2.resize(weighted, shape, interpolation=cv2.INTER_AREA)
    else:
        # A magnified 0/1 outline has steps as large as the scale: smooth them, then sharpen.
        enlarged = cv2.resize(cut, shape, interpolation=cv2.INTER_CUBIC)
        alpha = cv2.GaussianBlur(enlarged[..., 3], (0, 0), 0.8 * scale)
        alpha = np.clip(2 * scale * (alpha - 0.5) + 0.5, 0, 1)
        resized = np.dstack([np.clip(enlarged[..., :3], 0, 255) * alpha[..., None], alpha])
    return np.pad(resized, ((1, 1), (1, 1), (0, 0)))


def _feathered(premultiplied: np.ndarray) -> np.ndarray:
    """Divide the colour by alpha again and soften the edge inwards by about one pixel."""
    alpha = premultiplied[..., 3:]
    colour = np.where(alpha > 1e-3, premultiplied[..., :3] / np.maximum(alpha, 1e-3), 0)
    soft = cv2.GaussianBlur(premultiplied[..., 3], (0, 0), 0.8)
    soft = np.minimum(soft, premultiplied[..., 3])
    return np.dstack([np.clip(colour, 0, 255), soft]).astype(np.float32)


def _lit(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another exposure, contrast and colour temperature."""
    gamma, gain, warmth = rng.uniform(0.8, 1.25), rng.uniform(0.75, 1.15), rng.uniform(-0.08, 0.08)
    cast = np.array([1 + warmth, 1, 1 - warmth]) * gain
    colour = np.clip(255 * (rgba[..., :3] / 255) ** gamma * cast, 0, 255)
    return np.dstack([colour, rgba[..., 3]]).astype(np.float32)


def _blob(size: Size, near: np.ndarray | None, rng: np.random.Generator) -> _Layer:
    """A smooth textured shape that covers a border part of `near` (H, W), or lies anywhere."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    if near is not None and near.any():
        edge = np.argwhere(near & ~cv2.erode(near.astype(np.uint8), np.ones((3, 3))).astype(bool))
        y, x = edge[rng.integers(len(edge))]
        radius = np.sqrt(near.sum() / np.pi) * rng.uniform(0.35, 0.6)
    else:
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        radius = min(size) * rng.uniform(0.1, 0.25)
    theta = np.arctan2(rows - y, columns - x)
    outline = radius * (
        1 + sum(rng.uniform(-0.18, 0.18) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in (2, 3))
    )
    inside = np.clip(outline - np.hypot(columns - x, rows - y) + 0.5, 0, 1)
    photograph = read_photograph(_PATCHES[rng.integers(len(_PATCHES))])
    texture = cv2.resize(photograph, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    tint = rng.uniform(0.65, 1.1, 3)
    colour = np.clip(texture[: size[1], : size[0]] * tint, 0, 255)
    return _Layer(np.dstack([colour, inside]).astype(np.float32), float(inside.sum()), None)


def _visible_placements(layers: list[_Layer]) -> list[Placement]:
    """What is seen of each searched-for thing; layers are ordered from back to front."""
    placements = []
    for i, layer in enumerate(layers):
        if layer.name is None:
            continue
        mask = layer.mask
        for above in layers[i + 1 :]:
            mask = mask & ~above.mask
        placements.append(Placement(layer.name, mask, float(mask.sum() / layer.area)))
    return placements


def _render(background: np.ndarray, layers: list[_Layer], rng: np.random.Generator) -> np.ndarray:
    """Blend the layers with soft shadows, then light the whole picture. (H, W, 3) uint8."""
    canvas = background.copy()
    height, width = canvas.shape[:2]
    slant = rng.uniform(-5, 5, 2)
    for layer in layers:
        alpha = layer.rgba[..., 3:]
        shift = np.array([[1, 0, slant[0]], [0, 1, slant[1]]], np.float32)
        shadow = cv2.warpAffine(layer.rgba[..., 3], shift, (width, height))
        shadow = cv2.GaussianBlur(shadow, (0, 0), 4)
        canvas *= 1 - 0.45 * shadow[..., None]
        canvas = layer.rgba[..., :3] * alpha + canvas * (1 - alpha)
    columns, rows = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    light = 1 + rng.uniform(-0.12, 0.12) * columns + rng.uniform(-0.12, 0.12) * rows
    canvas = canvas * (light * rng.uniform(0.9, 1.1))[..., None]
    canvas += rng.normal(0, rng.uniform(0.5, 3), canvas.shape)
    return np.clip(canvas, 0, 255).round().astype(np.uint8)
