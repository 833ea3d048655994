"""The stepped kernels as a form; see kernels/stepped.h."""

from __future__ import annotations

from collections.abc import Sequence

from wavernn_trt.export.operators import SequenceShape
from wavernn_trt.plugins.form import Choice, ChunkSizes, refusal_by_tensor_cores
from wavernn_trt.plugins.loaded_kernels import LoadedKernels
from wavernn_trt.plugins.precisions import WeightPrecision
from wavernn_trt.plugins.sequence_plan import WAITS
from wavernn_trt.plugins.stepped_arguments import lay_out_stepped, stepped_launches
from wavernn_trt.plugins.stepped_plan import SteppedPlan, plan_stepped
from wavernn_trt.plugins.targets import Device


class SteppedForm:
    """A launch a stage and step, products on tensor cores, weights read anew in each."""

    kernels = ("stepped",)
    has_groups = False

    def refusal(self, precision: WeightPrecision, device: Device) -> str | None:
        """See `Form`."""
        return refusal_by_tensor_cores(precision, device)

    def plan(
        self, shape: SequenceShape, precision: WeightPrecision, batch: int, device: Device, choice: Choice
    ) -> SteppedPlan:
        """See `Form`."""
        if choice.groups != 1:
            raise ValueError(f"groups: found {choice.groups} for stepped kernels, whose blocks do not form groups")
        return plan_stepped(shape, precision, batch, device)

    def workspace_bytes(self, shape: SequenceShape, precision: WeightPrecision, batch: int) -> int:
        """See `Form`."""
        return 0 if precision == "fp32" else lay_out_stepped(shape, batch).total

    def check(self, kernels: LoadedKernels, plan: SteppedPlan) -> None:
        """See `Form`."""
        for stage in (plan.begin, *plan.stages):
            kernels.get("stepped", stage.kernel)

    def launch(
        self,
        kernels: LoadedKernels,
        shape: SequenceShape,
        precision: WeightPrecision,
        plan: SteppedPlan,
        sizes: ChunkSizes,
        pointers: Sequence[int],
        workspace: int,
        stream: int,
        waits: int = WAITS,
    ) -> None:
        """See `Form`. No block waits for another."""
        del waits
        for one in stepped_launches(shape, precision, plan, sizes, pointers, workspace):
            kernel = kernels.get("stepped", one.kernel)
            kernel.launch(one.grid, one.threads, one.shared_bytes, one.arguments, stream, cooperative=False)
