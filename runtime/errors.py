"""Errors that callers of the runtime can catch.

A service can map them to status codes: `OverloadedError` (retry later), `ClosedError` (closed or draining),
`DeadlineError` (too late), `ExecutorError` (internal failure); any other `VocoderError` is a mistake in the request.
"""

from __future__ import annotations

import numpy as np


class VocoderError(ValueError):
    """Invalid request; the message states what was found, what was expected and the way out."""


class OverloadedError(VocoderError):
    """The request was rejected under load; the same request can succeed later."""


class QueueFullError(OverloadedError):
    """The queue is full, and the caller chose not to wait."""


class ClosedError(VocoderError):
    """The vocoder, cache or lease is closed, or is draining and accepts no new requests."""


class DeadlineError(VocoderError):
    """The utterance cannot be completed before its deadline, and was dropped."""


class NoLogitsError(VocoderError):
    """Logits were requested from a backend that only draws samples; ``backend`` is its name in ``--backend``."""

    def __init__(self, backend: str) -> None:
        super().__init__(
            f"backend {backend} draws samples and gives no logits, which scoring needs; use --backend onnxruntime "
            "(in Python: backend='onnxruntime')"
        )


class ExecutorError(RuntimeError):
    """The executor failed or hangs; its own error is the cause (``__cause__``)."""


class LoadTimeoutError(ExecutorError):
    """A model was not loaded within its time limit; the load may still be in progress."""


class KernelStallError(ExecutorError):
    """Synchronisation between blocks of a kernel timed out: the chunk is lost, the device is still usable."""


class DamagedOutputError(ExecutorError):
    """Invalid output of the executor: NaN, or a constant waveform where the mel is loud."""


def check_positive(name: str, value: object, unit: str = "of samples") -> int:
    """Returns a positive integer as a Python integer.

    Raises:
        VocoderError: the value is not a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise VocoderError(f"{name}: found {value!r}, expected a positive number {unit}")
    return int(value)


def executor_error(error: BaseException) -> ExecutorError:
    """Wraps an executor's error in an `ExecutorError`."""
    if isinstance(error, ExecutorError):
        return error
    failure = ExecutorError(f"the executor failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
