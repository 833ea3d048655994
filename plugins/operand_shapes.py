"""Checks the shapes of a node's operands, for the numpy references and for the TensorRT plugins."""

from __future__ import annotations

from collections.abc import Sequence

from wavernn_trt.export.operators import Operand

_MEANINGS = {"B": "streams", "T": "steps", "W": "rows of the window", "C": "columns"}


def gru_operands(hidden_size: int) -> tuple[Operand, ...]:
    """Returns the inputs of a ``CustomGRUPlugin`` node, in order."""
    wide = 3 * hidden_size
    return (
        Operand("gates", ("B", wide), "float32"),
        Operand("hidden", ("B", hidden_size), "float32"),
        Operand("recurrent_weight", (wide, hidden_size), "weight"),
        Operand("recurrent_bias", (wide,), "float32"),
    )


def match_shapes(
    operator: str, operands: Sequence[Operand], shapes: Sequence[Sequence[int]], *, dynamic: bool = False
) -> dict[str, int]:
    """Checks the shapes of a node's operands and returns the sizes B, T, W and C.

    Args:
        operator: name of the operator, for messages.
        operands: the expected operands.
        shapes: the shape found for each operand.
        dynamic: True: a negative size matches any size, as in a TensorRT network.

    Returns:
        The sizes by letter, without dynamic ones.

    Raises:
        ValueError: wrong number of operands, or a wrong shape; names the operand.
    """
    if len(shapes) != len(operands):
        names = ", ".join(operand.name for operand in operands)
        raise ValueError(f"{operator}: found {len(shapes)} operands, expected {len(operands)}: {names}")
    sizes: dict[str, int] = {}
    for operand, shape in zip(operands, shapes, strict=True):
        found = tuple(int(size) for size in shape)
        matches = len(found) == len(operand.shape)
        for size, expected in zip(found, operand.shape, strict=False):
            if dynamic and size < 0:
                continue
            matches = matches and size == (sizes.setdefault(expected, size) if isinstance(expected, str) else expected)
        if not matches:
            letters = sorted({size for size in operand.shape if isinstance(size, str)})
            notes = [f"{letter} {_MEANINGS[letter]}, {sizes.get(letter, 'any')}" for letter in letters]
            expected = ", ".join(map(str, operand.shape))
            suffix = f" ({'; '.join(notes)})" if notes else ""
            raise ValueError(f"{operator}: {operand.name} has shape {list(found)}, expected [{expected}]{suffix}")
    return sizes
