"""The errors that callers of the runtime can catch.

By cause, as a service maps them to status codes: `OverloadedError` (try again later), `ClosedError` (closed or
draining), `DeadlineError` (too late), `ExecutorError` (broken); every other `VocoderError` is a mistake in the request.
"""


class VocoderError(ValueError):
    """A mistake in what was asked for: says what was found, what was expected and the way out."""


class OverloadedError(VocoderError):
    """There is no room for the request now; the same request can succeed later."""


class QueueFullError(OverloadedError):
    """As many utterances wait as may, and the caller chose not to wait with them."""


class ClosedError(VocoderError):
    """The vocoder, cache or lease is closed, or is draining and takes no new requests."""


class DeadlineError(VocoderError):
    """The utterance cannot be complete in the time that it was given, and was dropped."""


class NoLogitsError(VocoderError):
    """Logits were asked of a backend that only draws samples; says which has them."""

    def __init__(self, backend: str) -> None:
        """Names the backend, as ``--backend`` calls it."""
        super().__init__(
            f"backend {backend} draws samples and gives no logits, which scoring needs; use --backend onnxruntime "
            "(in Python: backend='onnxruntime')"
        )


class ExecutorError(RuntimeError):
    """The executor failed, or does not answer; what it said is the cause."""


class LoadTimeoutError(ExecutorError):
    """A model was not loaded within its time limit; the load may still be under way."""


class KernelStallError(ExecutorError):
    """Blocks of a kernel waited for each other in vain: the chunk is lost, and the device can still be used."""


class DamagedOutputError(ExecutorError):
    """The executor yields what no model means: NaN, or a waveform that stands where it must move."""


def executor_error(error: BaseException) -> ExecutorError:
    """Any error of an executor, as callers are given it."""
    if isinstance(error, ExecutorError):
        return error
    failure = ExecutorError(f"the executor failed: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
