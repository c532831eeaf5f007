"""The page in a browser: by mouse, by touch and by keyboard, wide and narrow."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
Page, expect = sync_api.Page, sync_api.expect

from .page_driver import (  # noqa: E402 (it needs playwright)
    boxes,
    choose,
    downloaded,
    drag,
    on_stage,
    ranked,
    search,
    touch_drag,
)

WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 360, "height": 740}


@pytest.fixture
def open_page(browser, searcher, start_server) -> Iterator[Callable[..., Page]]:
    """Open the page over `searcher`; nothing may be refused by its own policy or fail in it."""
    problems: list[str] = []
    contexts = []

    def start(viewport: dict = WIDE, **options: object) -> Page:
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda one: one.type == "error" and problems.append(one.text))
        page.goto(start_server(searcher))
        expect(page.locator("#about")).to_contain_text("12 pictures")
        return page

    yield start
    for context in contexts:
        context.close()
    # The browser itself notes refused requests, which the page explains to the user.
    assert [one for one in problems if "Failed to load resource" not in one] == []


@pytest.fixture
def page(open_page) -> Page:
    return open_page()


def test_mouse(page: Page, searcher, red_square: bytes) -> None:
    expect(page.locator("#empty")).to_be_visible()
    choose(page, red_square)
    drag(page, (0.3, 0.25), (0.7, 0.75))
    assert boxes(page)[0] == pytest.approx([30, 20, 70, 60], abs=0.5)
    # A corner is pulled, the box is moved, and a second one drawn; a click draws none.
    drag(page, (0.7, 0.75), (0.6, 0.65))
    assert boxes(page)[0] == pytest.approx([30, 20, 60, 52], abs=0.5)
    drag(page, (0.45, 0.5), (0.55, 0.6))
    assert boxes(page)[0] == pytest.approx([40, 28, 70, 60], abs=0.5)
    drag(page, (0.05, 0.05), (0.25, 0.2))
    page.mouse.click(*on_stage(page, 0.9, 0.9))
    assert len(boxes(page)) == 2
    expect(page.locator("#hint")).to_have_text("2 boxes on this picture.")
    page.locator(".draw-box").nth(1).press("Delete")
    search(page)
    assert ranked(page)[:3] == ["photos/004.png", "photos/008.png", "photos/012.png"]
    assert searcher.calls[-1]["references"][0][1][0] == pytest.approx((40, 28, 70, 60), abs=0.5)
    overlay = page.locator(".card").first.locator("rect.box.search")
    assert [overlay.get_attribute(name) for name in ("x", "y", "width", "height")] == [
        "22",
        "28",
        "40",
        "40",
    ]


def test_boxes_stay_inside_the_picture(page: Page, red_square: bytes) -> None:
    choose(page, red_square)
    drag(page, (0.5, 0.5), (1.4, -0.5))
    assert boxes(page)[0] == pytest.approx([50, 0, 100, 40], abs=0.5)
    drag(page, (0.75, 0.25), (-0.5, 1.5))
    assert boxes(page)[0] == pytest.approx([0, 40, 50, 80], abs=0.5)
    # Pulled over the opposite corner it turns inside out, and never to nothing.
    drag(page, (0.5, 1.0), (0.0, 0.5))
    x0, y0, x1, y1 = boxes(page)[0]
    assert x1 - x0 >= 2 and y1 - y0 >= 2


def test_touch(open_page, red_square: bytes) -> None:
    page = open_page(NARROW, has_touch=True, is_mobile=True)
    choose(page, red_square)
    touch_drag(page, (0.3, 0.25), (0.7, 0.75))
    assert boxes(page)[0] == pytest.approx([30, 20, 70, 60], abs=1)
    touch_drag(page, (0.7, 0.75), (0.8, 0.85))
    assert boxes(page)[0] == pytest.approx([30, 20, 80, 68], abs=1)
    touch_drag(page, (0.5, 0.5), (0.4, 0.4))
    assert boxes(page)[0] == pytest.approx([20, 12, 70, 60], abs=1)
    page.locator("#search").tap()
    expect(page.locator(".card")).to_have_count(12)
    page.locator(".card .mark.right").first.tap()
    expect(page.locator(".card.right")).to_have_count(1)


def test_keyboard_alone(page: Page, red_square: bytes) -> None:
    choose(page, red_square)
    page.focus("#add-box")
    page.keyboard.press("Enter")
    assert boxes(page) == [[25, 20, 75, 60]]
    # One press of an arrow is 2 % of the shorter side of 80 pixels.
    for key in ("ArrowRight", "ArrowUp", "Shift+ArrowLeft", "Shift+ArrowDown", "Control+ArrowLeft"):
        page.keyboard.press(key)
    assert boxes(page)[0] == pytest.approx([25.6, 18.4, 74, 60], abs=0.01)
    expect(page.locator("#announce")).to_have_text("Box 1: 48 by 42 pixels at 26, 18")
    page.focus("#add-box")
    page.keyboard.press("Space")
    assert len(boxes(page)) == 2
    page.keyboard.press("Delete")
    assert len(boxes(page)) == 1
    expect(page.locator(".draw-box")).to_be_focused()
    page.focus("#k")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(12)
    page.focus(".card .picture")
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-title")).to_contain_text("#2")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator(".card .picture").first).to_be_focused()


def test_all_controls_are_reached_with_visible_focus(page: Page, red_square: bytes) -> None:
    choose(page, red_square)
    page.click("#add-box")
    search(page)
    wanted = {
        "choose",
        "browse",
        "add-box",
        "k",
        "search",
        "threshold",
        "order",
        "refine",
        "download",
    }
    seen = set()
    page.evaluate("document.activeElement.blur(); document.body.focus()")
    for _ in range(80):
        page.keyboard.press("Tab")
        name, width = page.evaluate(
            "[document.activeElement.id, getComputedStyle(document.activeElement).outlineWidth]"
        )
        seen.add(name)
        assert name == "" or float(width.removesuffix("px")) >= 2, name
    assert wanted <= seen
    names = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility())"
        ".filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))"
        ".map(e => e.outerHTML)"
    )
    assert names == []


def test_drop(page: Page, red_square: bytes) -> None:
    data = base64.b64encode(red_square).decode()
    transfer = page.evaluate_handle(
        """data => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
        return transfer; }""",
        data,
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    expect(page.locator("body")).to_have_class("dropping")
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#references li")).to_have_count(1)
    empty = page.evaluate_handle("new DataTransfer()")
    page.dispatch_event("#drop", "drop", {"dataTransfer": empty})
    expect(page.locator("#alert")).to_contain_text("That was no file")


def test_from_the_index_and_combine(page: Page, searcher) -> None:
    page.click("#browse")
    expect(page.locator("#browser-status")).to_have_text("12 of 12 pictures")
    page.fill("#browser-name", "005")
    expect(page.locator("#browser-status")).to_have_text("1 of 1 pictures")
    page.fill("#browser-name", "nothing")
    expect(page.locator("#browser-status")).to_have_text("No picture has such a name.")
    page.fill("#browser-name", "005")
    page.click("#browser-grid button")
    expect(page.locator("#combine")).to_be_hidden()
    page.click("#browse")
    page.fill("#browser-name", "006")
    expect(page.locator("#browser-grid img")).to_have_attribute("alt", "photos/006.png")
    page.click("#browser-grid button")
    expect(page.locator("#references li")).to_have_count(2)
    page.check("input[value=max]")
    page.fill("#k", "5")
    search(page)
    assert searcher.calls[-1]["combine"] == "max" and searcher.calls[-1]["k"] == 5
    assert [one[0] for one in searcher.calls[-1]["references"]] == [5, 6]
    expect(page.locator(".card")).to_have_count(5)
    page.click("#references .remove >> nth=0")
    expect(page.locator("#references li")).to_have_count(1)


def test_threshold_and_order_act_at_once(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    drag(page, (0.3, 0.25), (0.7, 0.75))
    search(page)
    calls = len(searcher.calls)
    chances = page.locator(".card .probability").all_inner_texts()
    page.fill("#threshold", "30")
    expect(page.locator("#threshold-value")).to_have_text("30 %")
    left = [one for one in chances if int(re.sub(r"\D", "", one)) >= 30]
    assert 0 < len(left) < 12, chances
    expect(page.locator(".card")).to_have_count(len(left))
    expect(page.locator("#status")).to_contain_text(f"{len(left)} of 12 pictures")
    assert len(downloaded(page, "#download")["annotations"]) == len(left)
    page.fill("#threshold", "0")
    expect(page.locator(".card")).to_have_count(12)
    page.select_option("#order", "score")
    assert len(searcher.calls) == calls


def test_click_to_search_and_expand(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    drag(page, (0.3, 0.25), (0.7, 0.75))
    search(page)
    page.click(".card .add >> nth=0")
    expect(page.locator("#references li")).to_have_count(2)
    expect(page.locator("#toast")).to_contain_text("Result 1 is in the query")
    expect(page.locator(".draw-box")).to_have_count(1)
    # Once more takes it out.
    page.click(".card .add >> nth=0")
    expect(page.locator("#references li")).to_have_count(1)
    page.click(".card .add >> nth=0")
    expect(page.locator(".add[aria-pressed=true]")).to_have_count(1)
    search(page)
    expect(page.locator(".card")).to_have_count(11)
    assert [one[0] for one in searcher.calls[-1]["references"]] == [None, 4]
    page.click(".card .picture >> nth=1")
    page.click("#viewer-search")
    expect(page.locator("#references li")).to_have_count(1)
    expect(page.locator(".card")).to_have_count(11)
    assert searcher.calls[-1]["references"] == [(12, ((46, 44, 86, 84),))]


def test_refined_boxes_come_one_by_one(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    drag(page, (0.3, 0.25), (0.7, 0.75))
    search(page)
    searcher.refinements = threading.Semaphore(2)
    page.click("#refine")
    expect(page.locator("#status")).to_have_text("Refined 2 of 12")
    expect(page.locator("rect.refined")).to_have_count(2)
    expect(page.locator("#progress")).to_have_js_property("value", 2)
    expect(page.locator("#refine")).to_have_text("Stop refining")
    searcher.refinements.release(10)
    expect(page.locator("#refine")).to_have_text("Refine the boxes")
    expect(page.locator("path.mask")).to_have_count(12)
    expect(page.locator("#progress")).to_be_hidden()
    found = downloaded(page, "#download")["annotations"]
    assert found[0]["refined"] and found[0]["bbox"] == [24, 30, 36, 36]
    assert found[0]["segmentation"]["size"] == [120, 160]


def test_refining_can_be_stopped(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    search(page)
    searcher.refinements = threading.Semaphore(3)
    page.click("#refine")
    expect(page.locator("#status")).to_have_text("Refined 3 of 12")
    page.click("#refine")
    expect(page.locator("#status")).to_contain_text("12 pictures in")
    expect(page.locator("#refine")).to_have_text("Refine the boxes")
    searcher.refinements.release(100)
    search(page)
    expect(page.locator("path.mask")).to_have_count(0)


def test_without_a_localizer_the_page_explains(open_page, searcher, red_square: bytes) -> None:
    searcher.can_refine = False
    page = open_page()
    choose(page, red_square)
    search(page)
    expect(page.locator("#refine")).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#refine-note")).to_contain_text("spil-d2 adapt")
    page.click("#refine", force=True)
    assert page.locator("rect.refined").count() == 0


def test_marks_are_kept_and_downloaded(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    drag(page, (0.3, 0.25), (0.7, 0.75))
    search(page)
    page.click(".card .mark.right >> nth=0")
    page.click(".card .mark.right >> nth=1")
    page.click(".card .mark.wrong >> nth=3")
    page.click(".card .mark.right >> nth=1")
    expect(page.locator(".card.right")).to_have_count(1)
    page.click(".card .picture >> nth=4")
    page.click("#viewer-wrong")
    expect(page.locator("#viewer-wrong")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    wrong = {ranked(page)[3], ranked(page)[4]}
    results = downloaded(page, "#download")
    assert [one["mark"] for one in results["annotations"]][:5] == [
        "right",
        None,
        None,
        "wrong",
        "wrong",
    ]
    assert results["categories"] == [{"id": 1, "name": "instance"}]
    assert results["images"][0] == {
        "id": 4,
        "file_name": "photos/004.png",
        "width": 160,
        "height": 120,
    }
    first = results["annotations"][0]
    assert first["image_id"] == 4 and first["bbox"] == [22, 28, 40, 40] and first["area"] == 1600
    marks = downloaded(page, "#download-marks")
    assert [one["mark"] for one in marks["annotations"]] == ["right", "wrong", "wrong"]
    # They outlive a reload and the next search, which can leave the wrong ones out.
    page.reload()
    expect(page.locator("#references li")).to_have_count(1)
    page.check("#leave-out")
    search(page)
    assert not wrong & set(ranked(page))
    expect(page.locator(".card.right")).to_have_count(1)
    page.click("#add-right")
    expect(page.locator("#references li")).to_have_count(2)
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#reset")
    expect(page.locator("#references li")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_errors_are_shown_and_leave_the_page_usable(
    page: Page, searcher, red_square: bytes
) -> None:
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    expect(page.locator("#alert")).to_contain_text("a.txt: this is no picture that can be read")
    page.click("#alert-close")
    choose(page, red_square)
    page.fill("#k", "0")
    page.click("#search")
    expect(page.locator("#alert")).to_contain_text("a whole number from 1 to 1000")
    expect(page.locator("#k")).to_be_focused()
    page.fill("#k", "12")
    page.route("**/api/searches", lambda route: route.abort())
    page.click("#search")
    expect(page.locator("#alert")).to_contain_text("The server does not answer")
    page.unroute("**/api/searches")
    search(page)
    expect(page.locator("#alert")).to_be_hidden()
    expect(page.locator(".card")).to_have_count(12)


def test_searching_shows_progress(page: Page, searcher, red_square: bytes) -> None:
    choose(page, red_square)
    searcher.delay = 0.6
    page.click("#search")
    expect(page.locator("#progress")).to_be_visible()
    expect(page.locator("#status")).to_have_text("Searching …")
    expect(page.locator(".card")).to_have_count(12)
    expect(page.locator("#progress")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_window(open_page, red_square: bytes, scheme: str) -> None:
    page = open_page(NARROW, color_scheme=scheme)
    choose(page, red_square)
    page.click("#add-box")
    search(page)
    page.click(".card .mark.right >> nth=0")
    for dialog in (None, ".card .picture >> nth=0", "#browse"):
        if dialog is not None:
            page.click(dialog)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        wide = page.evaluate(
            "[...document.querySelectorAll('button, input, select, p, li')]"
            ".filter(e => e.checkVisibility() && e.getBoundingClientRect().right > 361)"
            ".map(e => e.outerHTML)"
        )
        assert wide == []
        page.keyboard.press("Escape")
