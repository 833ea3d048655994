"""Chunks on a stream: chooses, compiles and loads the kernel of each batch, and launches it.

Constructing a `SequenceKernel` needs neither a GPU nor CUDA; a launch needs both.
"""

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
    """``WaveRNNSequencePlugin``'s kernels: `launch` is all steps of a chunk, by the kernel that is fastest for it."""

    def __init__(
        self,
        shape: SequenceShape,
        precision: WeightPrecision,
        cache: KernelCache | None = None,
        choice: Choice | None = None,
        loaded: KernelsByDevice | None = None,
        table: Path | None = None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            shape: the model.
            precision: of its weights.
            cache: of compiled kernels; the user's unless given.
            choice: the kernel for every batch; what `wavernn_trt.plugins.choices.choices` gives unless given.
            loaded: kernels of this precision that are loaded already, in place of the cache's.
            table: a file of measured rows (`wavernn_trt.plugins.choices`); ``choices.json`` in the cache's folder,
                where there is one, unless given.
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
        """Of compiled kernels; a file of measured rows may lie there too."""
        return self._kernels.cache

    def prepare(self, batch: int) -> None:
        """Compiles and loads what a batch needs on the current device, so that its launch can be captured.

        Args:
            batch: B.

        Raises:
            KernelError: there is no compiler, driver, GPU or context; or no kernel decodes such a batch there, and why.
        """
        self.plan(batch)

    def choice(self, batch: int) -> Choice:
        """Which kernel decodes a batch on the current device.

        Raises:
            KernelError: as `prepare`.
        """
        return self._on_current_device(batch)[1]

    def plan(self, batch: int) -> Any:
        """How a batch is put onto the current device, as the chosen kernel's family plans it.

        Raises:
            KernelError: as `prepare`.
        """
        return self._on_current_device(batch)[2]

    def launches(self, batch: int, steps: int) -> int:
        """Kernels that a chunk launches.

        Raises:
            KernelError: as `prepare`.
        """
        plan = self.plan(batch)
        return plan.launches(steps) if isinstance(plan, SteppedPlan) else 1

    def workspace_bytes(self, batch: int, steps: int, window: int) -> int:
        """Bytes of device memory that a launch needs beside its operands, by whichever kernel and on any device.

        Args:
            batch: B.
            steps: T.
            window: W.
        """
        del steps, window  # only the state of a step or two is kept
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
        """Puts a chunk on a stream; allocates nothing and waits for nothing.

        Args:
            batch: B.
            steps: T.
            window: W.
            pointers: device addresses of every input of ``SequenceShape.inputs()``, then of the three outputs, each a
                multiple of its type's size; in ``fp8`` then of each weight's scales, float32 [rows].
                previous_out and hidden_out may be previous and hidden.
            workspace: device address of as many bytes as `workspace_bytes` says, a multiple of 256.
            stream: a CUDA stream's handle.
            waits: how often a thread looks for what other blocks are to write before the kernel gives up, and marks the
                chunk's last samples; see `wavernn_trt.plugins.stalls.find_stall`.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        kernels, choice, plan = self._on_current_device(batch)
        sizes = (batch, steps, window)
        family = family_of(choice.kernel)
        family.launch(kernels, self.shape, self.precision, plan, sizes, pointers, workspace, stream, waits)

    def _on_current_device(self, batch: int) -> tuple[LoadedKernels, Choice, Any]:
        kernels = self._kernels.on_current_device()
        key = kernels.device, batch
        # Without the lock first: one batch is launched while kernels for another are compiled.
        if (ready := self._ready.get(key)) is None:
            with self._lock:
                if (ready := self._ready.get(key)) is None:
                    ready = self._ready[key] = self._choose(kernels, batch)
        return kernels, *ready

    def _choose(self, kernels: LoadedKernels, batch: int) -> tuple[Choice, Any]:
        """The first of the wanted kernels that the device runs."""
        device = kernels.device
        if self._choice is not None:
            return self._choice, self._checked(kernels, batch, self._choice)
        refused: list[str] = []
        for choice, known in choices(self.precision, batch, device, self._measured_rows()):
            try:
                plan = self._checked(kernels, batch, choice)
            except KernelError as error:
                refused.append(str(error) if str(error).startswith(choice.kernel) else f"{choice.kernel}: {error}")
                # The wanted kernel is faster: a user who gets another one has to know why.
                logger.warning("batch %d on %s is not decoded by %s: %s", batch, device.name, choice, error)
                continue
            source = "measured" if known else "by the built-in table"
            logger.info("batch %d on %s: %s (%s)", batch, device.name, choice, source)
            return choice, plan
        raise KernelError(
            f"no kernel decodes this model in {self.precision} on {device.name} (sm_{device.sm}): "
            f"{'; '.join(refused) or 'none has this precision there'}. Build the cell form of it (--form cell), or "
            "take another precision"
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
