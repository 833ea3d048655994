"""Packages that a command needs and the base install does not have."""

from __future__ import annotations

import importlib.util


def need_onnx(command: str) -> None:
    """Refuses to begin where graphs cannot be read.

    Args:
        command: who needs it.

    Raises:
        ValueError: onnx or onnx-graphsurgeon is not installed.
    """
    for module in ("onnx", "onnx_graphsurgeon"):
        if importlib.util.find_spec(module) is None:
            name = module.replace("_", "-")
            raise ValueError(
                f"{command} needs {name}; install it with: pip install '.[build]' in a clone of the project"
            )
