"""Packages that a command needs and the base install does not have."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

_DISTRIBUTIONS = {"onnx_graphsurgeon": "onnx-graphsurgeon", "pynvml": "nvidia-ml-py"}
"""Names of packages whose modules are called otherwise."""


def need_onnx(command: str) -> None:
    """Refuses to begin if graphs cannot be read.

    Args:
        command: that needs it.

    Raises:
        ValueError: onnx or onnx-graphsurgeon is not installed.
    """
    need(command, ("onnx", "onnx_graphsurgeon"), extra="build")


def need(command: str, modules: Sequence[str], *, extra: str) -> None:
    """Refuses to begin if a package is missing.

    Args:
        command: that needs it.
        modules: as they are imported.
        extra: of this project, which installs them.

    Raises:
        ValueError: one of them is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ValueError(
                f"{command} needs {_DISTRIBUTIONS.get(module, module)}; install it with: pip install '.[{extra}]' in "
                "a clone of the project"
            )
