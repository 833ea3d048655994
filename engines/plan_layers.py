"""What TensorRT made of a plan's network: its layers after fusion, which only a GPU's runtime can read."""

from __future__ import annotations

import json
from pathlib import Path

from wavernn_trt.engines.gpu import DriverState, driver_state
from wavernn_trt.engines.manifest import PlanManifest
from wavernn_trt.engines.tensorrt_module import NAMES, TensorRTMissingError, import_tensorrt


class LayersUnknownError(ValueError):
    """The layers cannot be read here: says what is missing."""


def plan_layers(plan: Path, manifest: PlanManifest, state: DriverState | None = None) -> list[str]:
    """The layers of a verified plan, as TensorRT names them, in the order in which they run.

    Args:
        plan: the plan; its hash must have been compared with its manifest's.
        manifest: what lies beside it.
        state: what the driver says; by default it is asked.

    Raises:
        LayersUnknownError: there is no driver or no such module, or the plan is another GPU's.
    """
    name = NAMES[manifest.backend]
    reason = (state or driver_state()).reason
    if reason is not None:
        raise LayersUnknownError(f"{name} opens a plan on a GPU only, and {reason}")
    try:
        trt = import_tensorrt(manifest.backend)
    except TensorRTMissingError as error:
        raise LayersUnknownError(str(error)) from None
    from wavernn_trt.plugins.tensorrt_plugins import register

    register(trt)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise LayersUnknownError(f"{name} does not open this plan here; it was built for {', '.join(manifest.targets)}")
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return [layer if isinstance(layer, str) else str(layer.get("Name")) for layer in json.loads(text)["Layers"]]
