"""What a person does in FiftyOne's App: tags, the editor of an opened image, and a lasso."""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

WIDTH, HEIGHT = 200, 100  # of the images, in pixels

Point = tuple[float, float]  # in pixels of the opened image


def open_image(page: "Page", number: int) -> None:
    from playwright.sync_api import TimeoutError

    image = page.locator('[data-cy="looker"]').nth(number)
    image.locator('canvas[canvas-loaded="true"]').wait_for()
    page.wait_for_timeout(1000)  # the grid may still move
    # Forced, since the opened image lies above the grid before the click ends.
    image.click(position={"x": 60, "y": 60}, force=True)
    opened = page.locator("#modal canvas:visible").first
    with suppress(TimeoutError):  # on a busy machine, the page may miss a click
        opened.wait_for(timeout=20_000)
        return
    image.click(position={"x": 60, "y": 60}, force=True)
    opened.wait_for()


def tag(page: "Page", name: str) -> None:
    """Tags the selected boxes of the opened image."""
    page.locator('[data-cy="action-tag-sample-labels"]:visible').last.click()
    field = page.get_by_placeholder("+ tag selected")
    field.fill(name)
    field.press("Enter")
    with page.expect_response(lambda response: response.url.endswith("/tag")):
        page.get_by_text("Apply", exact=True).click()


def open_editor(page: "Page") -> None:
    page.locator('[data-cy="annotate"]').click()
    page.locator('[data-cy="lighter-sample-renderer-canvas"]').wait_for()
    page.wait_for_timeout(1000)  # the image is drawn after its canvas


def click_box(page: "Page", point: Point) -> None:
    """Selects the box around a point."""
    page.mouse.click(*_on_page(page, point))


def drag_corner(page: "Page", start: Point, end: Point) -> None:
    """Drags a corner of the box that is selected in the editor, and waits until the App has saved it."""
    page.get_by_text("Edit Detection").wait_for()
    page.mouse.move(*_on_page(page, start))
    page.mouse.down()
    page.mouse.move(*_on_page(page, end), steps=5)
    with page.expect_response(lambda response: response.request.method == "PATCH"):
        page.mouse.up()


def draw_lasso(page: "Page", canvas: "Locator", corners: Sequence[Point]) -> None:
    """Drags the mouse around a part of an element; corners are fractions of its width and height."""
    box = canvas.bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (*corners, corners[0])]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def _on_page(page: "Page", point: Point) -> Point:
    canvas = page.locator("#modal canvas:visible").first.bounding_box()
    assert canvas is not None
    scale = min(canvas["width"] / WIDTH, canvas["height"] / HEIGHT)
    left = canvas["x"] + (canvas["width"] - WIDTH * scale) / 2
    top = canvas["y"] + (canvas["height"] - HEIGHT * scale) / 2
    return left + point[0] * scale, top + point[1] * scale


def click_until_shown(button: "Locator", shown: "Locator") -> None:
    """Clicks until what the click opens is shown: a panel that still loads forgets the first click."""
    from playwright.sync_api import TimeoutError

    for _ in range(5):
        if button.count() <= 1:  # what has opened, and still loads, may have the button's text in several places
            button.click()
        with suppress(TimeoutError):
            shown.wait_for(timeout=10_000)
            return
    raise AssertionError(f"{button} was clicked five times, and {shown} is not there")
