"""Errors about shapes name the operand, the shape found and the shape expected."""

import pytest

from wavernn_trt.plugins.operand_shapes import gru_operands, match_shapes

CELL = gru_operands(8)
RIGHT = [(3, 24), (3, 8), (24, 8), (24,)]


def test_sizes_are_found() -> None:
    assert match_shapes("GRU", CELL, RIGHT) == {"B": 3}


def test_dynamic_sizes_match_any_size() -> None:
    dynamic = [(-1, 24), (-1, 8), *RIGHT[2:]]
    assert match_shapes("GRU", CELL, dynamic, dynamic=True) == {}
    assert match_shapes("GRU", CELL, [dynamic[0], *RIGHT[1:]], dynamic=True) == {"B": 3}
    with pytest.raises(ValueError, match=r"hidden has shape \[-1, 7\], expected \[B, 8\] \(B streams, any\)"):
        match_shapes("GRU", CELL, [dynamic[0], (-1, 7), *RIGHT[2:]], dynamic=True)


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (1, (4, 8), r"GRU: hidden has shape \[4, 8\], expected \[B, 8\] \(B streams, 3\)"),
        (2, (24, 9), r"GRU: recurrent_weight has shape \[24, 9\], expected \[24, 8\]"),
        (3, (24, 1), r"GRU: recurrent_bias has shape \[24, 1\], expected \[24\]"),
        (0, (-1, 24), r"GRU: hidden has shape \[3, 8\], expected \[B, 8\] \(B streams, -1\)"),
    ],
)
def test_a_wrong_shape_is_refused(position: int, shape: tuple[int, ...], message: str) -> None:
    shapes = [shape if i == position else right for i, right in enumerate(RIGHT)]
    with pytest.raises(ValueError, match=message):
        match_shapes("GRU", CELL, shapes)


def test_a_wrong_number_of_operands_is_refused() -> None:
    with pytest.raises(ValueError, match="found 3 operands, expected 4: gates, hidden, recurrent_weight"):
        match_shapes("GRU", CELL, RIGHT[:3])
