#!/usr/bin/env python3
"""A folder of pictures of mixed kinds, to try an indexer on: ordinary, odd and damaged ones.

    python tools/make_mixed_folder.py mixed --count 5000

The pictures are crops of scikit-image's photographs and, where it is there, of the shared data. The
same count and seed give the same pictures. `kinds.json` in the folder says what each file is, and
the width and height it is displayed with where it keeps those of the crop.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from tqdm import tqdm

from spil_d2.data.pictures import UnreadablePictureError, read_picture
from spil_d2.utils.shared import find_shared

EXIF_ORIENTATION = 274
# Every so many files are odd ones, all kinds in turn.
ODD_EVERY = 8
SIDES = (240, 900)
HUGE_SIDE = 10_000
BOMB_SIDE = 20_000
SOURCE_SIDE = 1000
SOURCES = 400

Save = Callable[[Image.Image, Path, np.random.Generator], None]


def save_jpeg(image: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """A JPEG of some quality, now and then a progressive one."""
    image.save(path, quality=int(rng.integers(70, 95)), progressive=bool(rng.random() < 0.3))


def save_plain(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """What the ending of the name says."""
    image.save(path)


def save_turned(orientation: int) -> Save:
    """Saves pixels that EXIF's orientation turns back to the picture."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}

    def save(image: Image.Image, path: Path, _: np.random.Generator) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        stored = image
        if orientation > 1:
            stored = image.transpose(Image.Transpose(undo[orientation]))
        stored.save(path, exif=exif)

    return save


def save_mode(mode: str) -> Save:
    """Saves in a mode of PIL, such as CMYK."""
    return lambda image, path, _: image.convert(mode).save(path)


def save_16_bit(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """Grey, 16 bits a pixel."""
    values = np.asarray(image.convert("L"), np.uint16) * 257
    Image.fromarray(values).save(path)


def save_float(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """Grey, a float from 0 to 1 a pixel."""
    Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255).save(path)


def save_see_through(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """With an alpha channel that rises from top to bottom."""
    mask = Image.linear_gradient("L").resize(image.size)
    image.putalpha(mask)
    image.save(path)


def save_palette(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """64 colours, one of them transparent."""
    image.quantize(64).save(path, transparency=0)


def save_animated(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """The picture and two turned ones as frames."""
    frames = [image.rotate(angle) for angle in (20, 40)]
    image.save(path, save_all=True, append_images=frames, duration=100)


def save_truncated(image: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """The first half of the file."""
    save_plain(image, path, rng)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def save_scrambled(_: Image.Image, path: Path, rng: np.random.Generator) -> None:
    """Random bytes."""
    path.write_bytes(rng.bytes(4000))


def save_text(_: Image.Image, path: Path, __: np.random.Generator) -> None:
    """A line of text."""
    path.write_text("This is no picture.\n")


def save_empty(_: Image.Image, path: Path, __: np.random.Generator) -> None:
    """No byte at all."""
    path.touch()


def save_resized(width: int, height: int) -> Save:
    """Saves in another size."""
    return lambda image, path, _: image.resize((width, height)).save(path)


def save_huge_png(image: Image.Image, path: Path, _: np.random.Generator) -> None:
    """A picture of a hundred million pixels in a small file."""
    # The nearest neighbour repeats pixels, which compresses in seconds.
    huge = image.resize((HUGE_SIDE, HUGE_SIDE), Image.Resampling.NEAREST)
    huge.save(path, compress_level=1)


def save_bomb(_: Image.Image, path: Path, __: np.random.Generator) -> None:
    """A small file of more pixels than PIL opens."""
    Image.new("1", (BOMB_SIDE, BOMB_SIDE)).save(path)


ORDINARY: dict[str, tuple[str, Save]] = {
    "jpeg": (".jpg", save_jpeg),
    "JPEG": (".JPG", save_jpeg),
    "png": (".png", save_plain),
    "webp": (".webp", save_plain),
    "bmp": (".bmp", save_plain),
    "tiff": (".tif", save_plain),
}
ODD: dict[str, tuple[str, Save]] = {
    **{f"turned_{n}": (".jpg", save_turned(n)) for n in range(1, 9)},
    "turned_tiff": (".tiff", save_turned(6)),
    "cmyk": (".jpg", save_mode("CMYK")),
    "cmyk_tiff": (".tif", save_mode("CMYK")),
    "gray": (".jpg", save_mode("L")),
    "one_bit": (".png", save_mode("1")),
    "gray_alpha": (".png", save_mode("LA")),
    "16_bit": (".png", save_16_bit),
    "16_bit_tiff": (".tif", save_16_bit),
    "float_tiff": (".tif", save_float),
    "alpha": (".png", save_see_through),
    "palette": (".png", save_palette),
    "animated_gif": (".gif", save_animated),
    "animated_webp": (".webp", save_animated),
    "animated_png": (".png", save_animated),
    "one_pixel": (".png", save_resized(1, 1)),
    "one_row": (".png", save_resized(3000, 1)),
    "one_column": (".jpg", save_resized(1, 3000)),
    "truncated_jpeg": (".jpg", save_truncated),
    "truncated_png": (".png", save_truncated),
    "truncated_gif": (".gif", save_truncated),
    "scrambled": (".jpg", save_scrambled),
    "text": (".png", save_text),
    "empty": (".jpg", save_empty),
    "no_picture": (".txt", save_text),
}
# Large ones: a few of each, whatever the count.
LARGE: dict[str, tuple[str, Save]] = {
    "huge_jpeg": (".jpg", save_resized(HUGE_SIDE, HUGE_SIDE)),
    "huge_png": (".png", save_huge_png),
    "bomb": (".png", save_bomb),
}
RESIZED = {*LARGE, "one_pixel", "one_row", "one_column"}
NAMES = ("photo", "Ünïcödé", "写真", "with space", "emoji 🐈", "semi;colon", "quo'te")


def main(argv: list[str] | None = None) -> dict[str, dict]:
    """Make the folder; returns what `kinds.json` holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="new folder")
    parser.add_argument("--count", type=int, default=5000, help="files in all")
    parser.add_argument("--large", type=int, default=4, help="of each kind of large file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scikit-only", action="store_true", help="no pictures of the shared data")
    args = parser.parse_args(argv)
    if args.folder.exists():
        parser.error(f"{args.folder} is there already: choose a new folder")
    if args.count <= len(LARGE) * args.large:
        parser.error(f"--count {args.count} leaves no room for {args.large} large files of a kind")
    args.folder.mkdir(parents=True)
    sources = read_sources(use_shared=not args.scikit_only)
    kinds = {}
    for number, (kind, suffix, save) in enumerate(
        tqdm(plan(args.count, args.large), unit="file", desc="making")
    ):
        rng = np.random.default_rng([args.seed, number])
        name = f"{number // 500:02d}/{NAMES[number % len(NAMES)]} {number:05d}{suffix}"
        path = args.folder / name
        path.parent.mkdir(exist_ok=True)
        image = view(sources[rng.integers(len(sources))], rng)
        save(image, path, rng)
        kinds[name] = {"kind": kind, "size": None if kind in RESIZED else image.size}
    add_links(args.folder)
    (args.folder / "kinds.json").write_text(json.dumps(kinds, ensure_ascii=False, indent=1))
    return kinds


def plan(count: int, large: int) -> list[tuple[str, str, Save]]:
    """Kind, suffix and maker of each file."""
    rows = [(kind, *LARGE[kind]) for kind in LARGE for _ in range(large)]
    odd, ordinary = _in_turn(ODD), _in_turn(ORDINARY)
    while len(rows) < count:
        rows.append(next(odd if len(rows) % ODD_EVERY == 0 else ordinary))
    # Large files lie apart from each other.
    order = np.random.default_rng(0).permutation(count)
    return [rows[i] for i in order]


def _in_turn(kinds: dict[str, tuple[str, Save]]) -> Iterator[tuple[str, str, Save]]:
    while True:
        yield from ((kind, *made) for kind, made in kinds.items())


def read_sources(use_shared: bool) -> list[Image.Image]:
    """Photographs of at most `SOURCE_SIDE` pixels."""
    folder = Path(skimage.__file__).parent / "data"
    paths = sorted([*folder.glob("*.png"), *folder.glob("*.jpg"), *folder.glob("*.jpeg")])
    shared = find_shared() if use_shared else None
    if shared is not None:
        found = sorted((shared / "data").rglob("*.jpg"))
        paths += found[:: max(1, len(found) // SOURCES)]
    sources = []
    for path in paths:
        try:
            image = Image.fromarray(read_picture(path, SOURCE_SIDE).pixels)
        except UnreadablePictureError:
            continue
        image.thumbnail((SOURCE_SIDE, SOURCE_SIDE))
        if min(image.size) >= 64:
            sources.append(image)
    return sources


def view(source: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A crop of a photograph at some size."""
    part = rng.uniform(0.5, 1.0)
    width, height = (max(16, int(side * part)) for side in source.size)
    left = int(rng.integers(source.width - width + 1))
    top = int(rng.integers(source.height - height + 1))
    image = source.crop((left, top, left + width, top + height))
    scale = rng.integers(*SIDES) / max(width, height)
    size = max(8, round(width * scale)), max(8, round(height * scale))
    return image.resize(size, Image.Resampling.BILINEAR)


def add_links(folder: Path) -> None:
    """A loop of folders, a link to nowhere, a hidden picture, and a folder named like a picture."""
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "nowhere.jpg").symlink_to("missing.jpg")
    (folder / ".hidden.jpg").write_bytes(b"hidden")
    (folder / "folder.jpg").mkdir()
    with open(os.fsencode(folder) + b"/bad\xffname.jpg", "wb") as file:
        file.write(b"no picture")


if __name__ == "__main__":
    main()
