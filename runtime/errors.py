"""The error that callers of the runtime can catch."""


class VocoderError(ValueError):
    """A mistake in what was asked for: says what was found, what was expected and the way out."""
