"""What TensorRT measured of kernels, kept beside the plans: a second build of a like graph measures less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wavernn_trt.export.atomic_file import write_atomic


class TimingCache:
    """The timing cache of one build."""

    def __init__(self, config: Any, file: Path) -> None:
        """Reads what is known.

        Args:
            config: the build's configuration.
            file: where it is kept; need not exist.
        """
        self._config, self._file = config, file
        known = self._file.read_bytes() if self._file.is_file() else b""
        self._cache = config.create_timing_cache(known)
        if self._cache is not None:
            # A cache of another GPU or version is refused here, and then the build starts an empty one.
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def save(self) -> None:
        """Writes it beside itself, then over itself."""
        cache = self._config.get_timing_cache()
        if cache is None:
            return
        write_atomic(self._file, memoryview(cache.serialize()))
