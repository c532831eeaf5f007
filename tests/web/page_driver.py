"""What a user does with the page in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, expect


def choose(page: Page, data: bytes, name: str = "red.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})
    expect(page.locator("#stage img")).to_be_visible()
    expect(page.locator("#stage img")).to_have_js_property("complete", True)


def on_stage(page: Page, x: float, y: float) -> tuple[float, float]:
    """Screen coordinates of a place in fractions of the picture."""
    page.locator("#stage").scroll_into_view_if_needed()
    area = page.locator("#stage").bounding_box()
    assert area is not None
    return area["x"] + x * area["width"], area["y"] + y * area["height"]


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at a place of the picture, in fractions, and let go at another."""
    page.mouse.move(*on_stage(page, *start))
    page.mouse.down()
    page.mouse.move(*on_stage(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    page.mouse.move(*on_stage(page, *end))
    page.mouse.up()


def touch_drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """The same with a finger."""
    session = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    send("touchStart", on_stage(page, *start))
    send("touchMove", on_stage(page, (start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    send("touchMove", on_stage(page, *end))
    send("touchEnd")


def boxes(page: Page) -> list[list[float]]:
    """Boxes of the shown query picture, as the page keeps them."""
    kept = page.evaluate("JSON.parse(Object.values(sessionStorage)[0])")
    active = page.locator("#references .active").evaluate(
        "e => [...e.parentNode.children].indexOf(e)"
    )
    return kept["references"][active]["boxes"]


def search(page: Page) -> None:
    page.click("#search")
    expect(page.locator("#status")).to_have_text(re.compile(r"pictures? in [\d.]+ s$"))


def ranked(page: Page) -> list[str]:
    return page.locator(".card .file").all_inner_texts()


def downloaded(page: Page, button: str) -> dict:
    with page.expect_download() as found:
        page.click(button)
    return json.loads(Path(found.value.path()).read_text(encoding="utf-8"))
