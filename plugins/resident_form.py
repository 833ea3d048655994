"""The resident kernels as a form; see kernels/resident.h."""

from __future__ import annotations

from collections.abc import Sequence

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins import driver
from wavernn_trt.plugins.form import Choice, ChunkSizes, refusal_by_tensor_cores, require_resident
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.resident_arguments import lay_out_resident, resident_arguments
from wavernn_trt.plugins.resident_plan import MOST_STREAMS, VARIANTS, ResidentPlan, plan_resident
from wavernn_trt.plugins.sequence_plan import THREADS, WAITS
from wavernn_trt.plugins.targets import Device


class ResidentForm:
    """One launch for all steps, products on tensor cores."""

    kernels = tuple(VARIANTS)
    has_groups = True

    def refusal(self, precision: WeightPrecision, device: Device) -> str | None:
        """See `Form`."""
        return refusal_by_tensor_cores(precision, device)

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device, choice: Choice
    ) -> ResidentPlan:
        """See `Form`."""
        return plan_resident(shape, precision, batch, device, choice.kernel, groups=choice.groups)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """See `Form`."""
        return 0 if precision == "fp32" or batch > MOST_STREAMS else lay_out_resident(shape, batch).total

    def check(self, kernels: LoadedKernels, plan: ResidentPlan) -> None:
        """See `Form`."""
        kernel = kernels.get("resident", plan.kernel)
        require_resident(plan, kernels.device, kernel.blocks_per_multiprocessor(THREADS, plan.shared_bytes))

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: ResidentPlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        """See `Form`."""
        arguments = resident_arguments(shape, precision, plan, sizes, pointers, workspace, waits=waits)
        layout = lay_out_resident(shape, sizes[0])
        driver.clear(workspace, layout.cleared, stream)
        kernel = kernels.get("resident", plan.kernel)
        kernel.launch(plan.grid, THREADS, plan.shared_bytes, arguments, stream, cooperative=True)
