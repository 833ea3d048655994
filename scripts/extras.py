"""Checks for optional packages that a command needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

_DISTRIBUTIONS = {"onnx_graphsurgeon": "onnx-graphsurgeon", "pynvml": "nvidia-ml-py"}
"""Module -> its package, if the names differ."""


def need_onnx(command: str) -> None:
    """Raises a ValueError if onnx or onnx-graphsurgeon is not installed."""
    need(command, ("onnx", "onnx_graphsurgeon"), extra="build")


def need(command: str, modules: Sequence[str], *, extra: str) -> None:
    """Raises a ValueError if a module is not installed.

    Args:
        command: name of the feature, for the message.
        modules: import names.
        extra: the extra of this project that installs them.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(
                f"{command} needs {_DISTRIBUTIONS.get(module, module)}; install it with: pip install '.[{extra}]' in "
                "a clone of the project"
            )
