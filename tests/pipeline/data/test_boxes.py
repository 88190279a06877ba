import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.annotations import Annotation
from pipeline.data.boxes import box_tensor, xywh_to_xyxy, xyxy_to_xywh

# Whole numbers, so that sums are exact.
sides = st.integers(-1000, 1000).map(float)
boxes = st.tuples(sides, sides, sides, sides)


def test_by_hand() -> None:
    assert xywh_to_xyxy((1.0, 2.5, 10.0, 20.0)) == (1.0, 2.5, 11.0, 22.5)
    assert xyxy_to_xywh((1.0, 2.5, 11.0, 22.5)) == (1.0, 2.5, 10.0, 20.0)


@given(boxes)
def test_each_conversion_is_the_inverse_of_the_other(box: tuple[float, float, float, float]) -> None:
    assert xyxy_to_xywh(xywh_to_xyxy(box)) == box
    assert xywh_to_xyxy(xyxy_to_xywh(box)) == box


@given(st.lists(boxes, max_size=5))
def test_arrays_and_tensors_are_converted_box_by_box(many: list[tuple[float, float, float, float]]) -> None:
    expected = [list(xywh_to_xyxy(box)) for box in many]
    array = np.array(many, dtype=np.float64).reshape(-1, 4)
    assert np.stack(xywh_to_xyxy(array.T), axis=-1).tolist() == expected
    tensor = torch.tensor(many, dtype=torch.float64).view(-1, 4)
    assert torch.stack(xywh_to_xyxy(tensor.unbind(-1)), dim=-1).tolist() == expected


def test_boxes_of_annotations() -> None:
    first, second = (1.0, 2.0, 3.0, 4.0), (0.0, 0.0, 5.0, 6.0)
    tensor = box_tensor([Annotation(1, 1, 1, first, 12.0), Annotation(2, 1, 1, second, 30.0)])
    assert tensor.dtype == torch.float32
    assert tensor.tolist() == [[1, 2, 4, 6], [0, 0, 5, 6]]
    assert box_tensor([]).shape == (0, 4)
