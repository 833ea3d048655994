"""The sequence kernel as a form; see kernels/sequence.h."""

from __future__ import annotations

from collections.abc import Sequence

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.form import Choice, ChunkSizes, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision, engine_precision
from wavernn_trt.plugins.sequence_plan import THREADS, WAITS, SequencePlan, plan_sequence
from wavernn_trt.plugins.targets import Device
from wavernn_trt.plugins.workspace import COUNTER_BYTES, lay_out, sequence_arguments


class SequenceForm:
    """One launch for all steps, on any GPU and in any precision of an engine."""

    kernels = ("sequence",)
    has_groups = True

    def refusal(self, precision: WeightPrecision, device: Device) -> str | None:
        """See `Form`."""
        return "it has no fp8" if precision == "fp8" else None

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device, choice: Choice
    ) -> SequencePlan:
        """See `Form`."""
        return plan_sequence(shape, engine_precision(precision), batch, device, groups=choice.groups)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """See `Form`."""
        return 0 if precision == "fp8" else lay_out(shape, precision, batch).total

    def check(self, kernels: LoadedKernels, plan: SequencePlan) -> None:
        """See `Form`."""
        require_resident(
            plan, kernels.device, _kernel(kernels, plan).blocks_per_multiprocessor(THREADS, plan.shared_bytes)
        )

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: SequencePlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        """See `Form`."""
        arguments = sequence_arguments(
            shape, engine_precision(precision), plan, sizes, pointers, workspace, waits=waits
        )
        driver.clear(workspace, plan.groups * COUNTER_BYTES, stream)
        kernel = _kernel(kernels, plan)
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)


def _kernel(kernels: LoadedKernels, plan: SequencePlan) -> driver.LoadedKernel:
    return kernels.get("sequence", f"sequence_{plan.tile}")
