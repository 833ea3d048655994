"""What is not there to be measured, and how a report says so."""

from __future__ import annotations

import importlib.util
from typing import Any

NO_TORCH = "not measured: torch is not installed"


class UnavailableError(Exception):
    """Something that cannot be measured; the message is what the report says."""


class InapplicableError(UnavailableError):
    """Something that cannot be measured with this model or machine, whatever is installed."""


def has_torch() -> bool:
    """Whether the torch backend and what is made of PyTorch can run."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "safetensors"))


def require_cuda_torch() -> Any:
    """PyTorch, where it finds a GPU.

    Raises:
        UnavailableError: it is not installed, or finds none.
    """
    if not has_torch():
        raise UnavailableError(NO_TORCH)
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError(f"not measured: torch {torch.__version__} finds no GPU (is it a build for the CPU?)")
    return torch
