"""Kernels as something to launch on a stream. Constructing one needs neither a GPU nor CUDA; a launch needs both."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from wavernn_trt.export.operators import Precision, SequenceShape
from wavernn_trt.plugins.choice import candidates, estimate, refusals
from wavernn_trt.plugins.choice_table import ChoiceTable
from wavernn_trt.plugins.compile import KernelCache
from wavernn_trt.plugins.errors import KernelError
from wavernn_trt.plugins.form import Choice
from wavernn_trt.plugins.forms import FORMS, form_of
from wavernn_trt.plugins.gru_plan import gru_arguments, plan_gru
from wavernn_trt.plugins.loaded_kernels import KernelsByDevice, LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.sequence_plan import THREADS, TILES
from wavernn_trt.plugins.stepped_plan import SteppedPlan
from wavernn_trt.plugins.targets import Device

logger = logging.getLogger(__name__)


class GruCellKernel:
    """``CustomGRUPlugin``'s kernel: one launch is one cell."""

    def __init__(
        self,
        hidden_size: int,
        precision: Precision,
        cache: KernelCache | None = None,
        loaded: KernelsByDevice | None = None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            hidden_size: H.
            precision: of the recurrent weights.
            cache: of compiled kernels; the user's unless given.
            loaded: kernels of this precision that are loaded already, in place of the cache's.
        """
        self._hidden_size, self._precision = hidden_size, precision
        self._kernels = loaded or KernelsByDevice(precision, cache)

    def prepare(self) -> None:
        """Compiles and loads the kernels for the current device, so that a launch can be captured into a CUDA graph.

        Raises:
            KernelError: there is no compiler, driver, GPU or context.
        """
        kernels = self._kernels.on_current_device()
        for tile in TILES:
            kernels.get("gru_cell", f"gru_cell_{tile}")

    def launch(self, batch: int, pointers: Sequence[int], stream: int) -> None:
        """Puts a cell on a stream; allocates nothing and waits for nothing.

        Args:
            batch: B.
            pointers: device addresses of gates, hidden, recurrent_weight, recurrent_bias and next_hidden, each a
                multiple of its type's size; next_hidden may not be hidden.
            stream: a CUDA stream's handle.

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        plan = plan_gru(self._hidden_size, self._precision, batch)
        arguments = gru_arguments(self._hidden_size, plan, batch, pointers)
        kernel = self._kernels.on_current_device().get("gru_cell", f"gru_cell_{plan.tile}")
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=False)


class SequenceKernel:
    """``WaveRNNSequencePlugin``'s kernels: `launch` is all steps of a chunk, by the kernel that is fastest for it."""

    def __init__(
        self,
        shape: SequenceShape,
        precision: WeightPrecision,
        cache: KernelCache | None = None,
        choice: Choice | None = None,
        loaded: KernelsByDevice | None = None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            shape: the model.
            precision: of its weights.
            cache: of compiled kernels, and of what was measured; the user's unless given.
            choice: the kernel for every batch; for each batch the one that was measured to be fastest on the device at
                hand, or else is estimated to be, unless given.
            loaded: kernels of this precision that are loaded already, in place of the cache's.
        """
        self.shape, self.precision = shape, precision
        self._choice = choice
        self._kernels = loaded or KernelsByDevice(precision, cache)
        self._measured: dict[tuple[Device, int], Mapping[Choice, float]] = {}
        self._ready: dict[tuple[Device, int], tuple[Choice, Any]] = {}
        self._lock = threading.Lock()

    @property
    def cache(self) -> KernelCache:
        """Of compiled kernels; what was measured lies there too."""
        return self._kernels.cache

    def with_choice(self, choice: Choice) -> SequenceKernel:
        """The same model in a given kernel for every batch; what is loaded is shared."""
        return SequenceKernel(self.shape, self.precision, choice=choice, loaded=self._kernels)

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
        """How a batch is put onto the current device, as the chosen kernel's form plans it.

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
        return max(form.workspace_bytes(self.shape, self.precision, batch) for form in FORMS)

    def launch(self, batch: int, steps: int, window: int, pointers: Sequence[int], workspace: int, stream: int) -> None:
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

        Raises:
            KernelError: as `prepare`, or the launch fails.
            ValueError: sizes or addresses that no launch can have.
        """
        kernels, choice, plan = self._on_current_device(batch)
        sizes = (batch, steps, window)
        form = form_of(choice.kernel)
        form.launch(kernels, self.shape, self.precision, plan, sizes, pointers, workspace, stream)

    def forget(self) -> None:
        """Chooses anew at the next call, by what the cache then holds: another process has measured."""
        with self._lock:
            self._measured.clear()
            self._ready.clear()

    def learn(self, device: Device, batch: int, measured: Mapping[Choice, float]) -> None:
        """Chooses by what was measured from the next call on, whether or not the cache could keep it.

        Args:
            device: where it was measured.
            batch: B.
            measured: see `wavernn_trt.plugins.choice_table.ChoiceTable.find`.
        """
        with self._lock:
            self._measured[device, batch] = measured
            self._ready.pop((device, batch), None)

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
        """The first of the wanted kernels that the device holds."""
        device = kernels.device
        if self._choice is not None:
            form = form_of(self._choice.kernel)
            if (reason := form.refusal(self.precision, device)) is not None:
                raise KernelError(f"{self._choice.kernel} does not run: {reason}")
            plan = form.plan(self.shape, self.precision, batch, device, self._choice)
            form.check(kernels, plan)
            return self._choice, plan
        measured = self._measured.get((device, batch))
        if measured is None:
            measured = ChoiceTable(self.cache.folder).find(self.shape, self.precision, batch, device)
        failed = [choice for choice, time in measured.items() if math.isinf(time)]
        plans = {
            choice: plan
            for choice, plan in candidates(self.shape, self.precision, batch, device)
            if choice not in failed
        }
        order = [choice for choice in measured if choice in plans]
        order += sorted(plans, key=lambda choice: estimate(self.shape, self.precision, batch, plans[choice], device))
        refused = None
        for choice in order:
            try:
                form_of(choice.kernel).check(kernels, plans[choice])
            except KernelError as error:
                refused = refused or error
                # What was fastest and no longer runs is worth a word: who is slower now would not know why.
                logger.log(logging.WARNING if choice in measured else logging.DEBUG, "not %s: %s", choice, error)
                continue
            source = f"{measured[choice]:.2f} us a step, measured" if choice in measured else "not measured yet"
            logger.info("batch %d on %s: %s (%s)", batch, device.name, choice, source)
            return choice, plans[choice]
        failures = [f"{choice}: it failed here when it was timed" for choice in failed]
        reasons = "; ".join([*refusals(self.shape, self.precision, batch, device), *failures])
        raise refused or KernelError(
            f"no kernel decodes this model in {self.precision} on {device.name} (sm_{device.sm}): {reasons}. Build the "
            "cell form of it (--form cell), or take another precision"
        )
