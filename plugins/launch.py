"""Chooses, compiles, loads and launches the kernel that decodes a chunk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.choices import FAMILIES, FILE, Row, choices, family_of, plan_choice, read_rows
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.kernel_family import Choice
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice, LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.stalls import WAITS
from wavernn_trt.plugins.stepped import SteppedPlan
from wavernn_trt.plugins.targets import DeviceProperties

logger = logging.getLogger(__name__)


class SequenceKernel:
    """The kernels of ``WaveRNNSequencePlugin``: one launch decodes all steps of a chunk.

    Creating one needs neither a GPU nor CUDA; `workspace_bytes` neither. All other methods need both.
    """

    def __init__(
        self,
        shape: SequenceShape,
        precision: WeightPrecision,
        cache: KernelCache | None = None,
        choice: Choice | None = None,
        loaded: KernelsByDevice | None = None,
        table: Path | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            shape: the model.
            precision: precision of its weights.
            cache: cache of compiled kernels; default: the user's.
            choice: the kernel for every batch; default: selected by `wavernn_trt.plugins.choices.choices`.
            loaded: loaded kernels of this precision, used instead of a cache.
            table: a file of measured rows (`wavernn_trt.plugins.choices`); default: ``choices.json`` in the folder of
                the cache, if it exists.
        """
        self.shape, self.precision = shape, precision
        self._choice = choice
        self._kernels = loaded or KernelsByDevice(precision, cache)
        self._table = table
        self._rows: tuple[Row, ...] | None = None
        self._ready: dict[tuple[DeviceProperties, int], tuple[Choice, Any]] = {}
        self._lock = threading.Lock()

    @property
    def cache(self) -> KernelCache:
        """The cache of compiled kernels."""
        return self._kernels.cache

    def prepare(self, batch: int) -> None:
        """Compiles and loads the kernels for a batch on the current device, so that their launch can be captured.

        Raises:
            KernelError: there is no compiler, driver, GPU or context; or no kernel decodes this batch on the device.
        """
        self.plan(batch)

    def choice(self, batch: int) -> Choice:
        """Returns the kernel that decodes a batch on the current device.

        Raises:
            KernelError: as `prepare`.
        """
        return self._on_current_device(batch)[1]

    def plan(self, batch: int) -> Any:
        """Returns the launch plan of a batch on the current device, of the class of the kernel's family.

        Raises:
            KernelError: as `prepare`.
        """
        return self._on_current_device(batch)[2]

    def launches(self, batch: int, steps: int) -> int:
        """Returns the number of kernel launches of a chunk.

        Raises:
            KernelError: as `prepare`.
        """
        plan = self.plan(batch)
        return plan.launches(steps) if isinstance(plan, SteppedPlan) else 1

    def workspace_bytes(self, batch: int, steps: int, window: int) -> int:
        """Returns the size of a workspace that is large enough for every kernel on every device."""
        del steps, window  # workspaces hold the state of one or two steps only
        return max(family.workspace_bytes(self.shape, self.precision, batch) for family in FAMILIES)

    def launch(
        self,
        batch: int,
        steps: int,
        window: int,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        """Enqueues a chunk on a stream, without allocation or synchronisation.

        Args:
            batch: B.
            steps: T.
            window: W.
            pointers: device addresses of every input of ``SequenceShape.inputs()``, then of the three outputs, each a
                multiple of its type's size; with ``fp8`` then of the scales of each weight, float32 [rows].
                previous_out may be the same buffer as previous, hidden_out the same as hidden.
            workspace: device address of `workspace_bytes` bytes, a multiple of 256.
            stream: handle of a CUDA stream.
            waits: maximum number of polls of a waiting thread; then the kernel ends and marks the last samples of the
                chunk, see `wavernn_trt.plugins.stalls.find_stall`.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: invalid sizes or addresses.
        """
        kernels, choice, plan = self._on_current_device(batch)
        sizes = (batch, steps, window)
        family = family_of(choice.kernel)
        family.launch(kernels, self.shape, self.precision, plan, sizes, pointers, workspace, stream, waits)

    def _on_current_device(self, batch: int) -> tuple[LoadedKernels, Choice, Any]:
        kernels = self._kernels.on_current_device()
        key = kernels.device, batch
        # The first look-up takes no lock: a batch can be launched while kernels for another are compiled.
        if (ready := self._ready.get(key)) is None:
            with self._lock:
                if (ready := self._ready.get(key)) is None:
                    ready = self._ready[key] = self._choose(kernels, batch)
        return kernels, *ready

    def _choose(self, kernels: LoadedKernels, batch: int) -> tuple[Choice, Any]:
        """Returns the first kernel, in the order of `choices`, that the device runs, and its plan."""
        device = kernels.device
        if self._choice is not None:
            return self._choice, self._checked(kernels, batch, self._choice)
        refused: list[str] = []
        for choice, measured in choices(self.precision, batch, device, self._measured_rows()):
            try:
                plan = self._checked(kernels, batch, choice)
            except KernelError as error:
                refused.append(str(error) if str(error).startswith(choice.kernel) else f"{choice.kernel}: {error}")
                # A warning, because the next kernel is slower.
                logger.warning("batch %d on %s is not decoded by %s: %s", batch, device.name, choice, error)
                continue
            source = "measured" if measured else "by the built-in table"
            logger.info("batch %d on %s: %s (%s)", batch, device.name, choice, source)
            return choice, plan
        raise KernelError(
            f"no kernel decodes this model in {self.precision} on {device.name} (sm_{device.sm}): "
            f"{'; '.join(refused) or 'none supports this precision there'}. Build its cell form (--form cell), or use "
            "another precision"
        )

    def _checked(self, kernels: LoadedKernels, batch: int, choice: Choice) -> Any:
        plan = plan_choice(self.shape, self.precision, batch, kernels.device, choice)
        family_of(choice.kernel).check(kernels, plan)
        return plan

    def _measured_rows(self) -> tuple[Row, ...]:
        if self._rows is None:
            path = self._table or self.cache.folder / FILE
            self._rows = read_rows(path) if self._table is not None or path.exists() else ()
        return self._rows
