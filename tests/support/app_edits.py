"""What a person does in FiftyOne's App to correct annotations: tags, and the editor of an opened image."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SIZE = (200, 100)  # of the images in pixels: width, height


def select_image(page: "Page", number: int) -> None:
    image = _image(page, number)
    image.hover()
    image.click(position={"x": 12, "y": 12})  # the check box


def open_image(page: "Page", number: int) -> None:
    _image(page, number).click(position={"x": 60, "y": 60}, force=True)
    page.locator("#modal canvas:visible").first.wait_for()


def _image(page: "Page", number: int) -> "Locator":
    return page.locator('[data-cy="fo-grid"] [data-cy="looker"]').nth(number)


def tag(page: "Page", name: str) -> None:
    """Tags the selected images, or the selected boxes of the opened image."""
    page.locator('[data-cy="action-tag-sample-labels"]:visible').last.click()
    field = page.get_by_placeholder("+ tag selected")
    field.fill(name)
    field.press("Enter")
    with page.expect_response(lambda response: response.url.endswith("/tag")):
        page.get_by_text("Apply", exact=True).click()


def click_box(page: "Page", point: tuple[float, float]) -> None:
    """Selects the box at a point of the opened image, in its pixels."""
    page.mouse.click(*_on_page(page, point))


def drag(page: "Page", start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags from one point of the opened image to another, in its pixels, and waits until the App has saved it."""
    page.mouse.move(*_on_page(page, start))
    page.mouse.down()
    page.mouse.move(*_on_page(page, end), steps=8)
    with page.expect_response(lambda response: response.request.method == "PATCH"):
        page.mouse.up()


def _on_page(page: "Page", point: tuple[float, float]) -> tuple[float, float]:
    area = page.locator("#modal canvas:visible").first.bounding_box()
    assert area is not None
    scale = min(area["width"] / SIZE[0], area["height"] / SIZE[1])
    left, top = (
        area[start] + (area[side] - size * scale) / 2
        for start, side, size in zip(("x", "y"), ("width", "height"), SIZE, strict=True)
    )
    return left + point[0] * scale, top + point[1] * scale
