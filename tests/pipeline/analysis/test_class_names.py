"""What names of classes say about mirrored and recolored objects."""

import pytest

from pipeline.analysis.class_names import colored_class, sided_class


@pytest.mark.parametrize(
    ("name", "is_sided"),
    [
        ("0", True), ("A", True), ("turn left", True), ("left_hand", True), ("turnRight", True), ("text", True),
        ("Three", True), ("clockwise", True), ("dog", False), ("leftover", False), ("brighton", False),
        ("bottle", False), ("number plate", False), ("eastern newt", False), ("digit_3", True), ("number_7", True),
        ("digit 0", True), ("letter_a", True), ("license plate text", True), ("Ж", True), ("人", False), ("犬", False),
        ("type a", False), ("phase_2", False), ("?", False),
    ],
)  # fmt: skip
def test_names_that_have_a_side(name: str, is_sided: bool) -> None:
    assert (sided_class(("cat", name)) is not None) is is_sided


def test_names_that_have_a_color() -> None:
    assert colored_class(("car", "red_light")) == "red_light"
    assert colored_class(("greenhouse", "bored")) is None
