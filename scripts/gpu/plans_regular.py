"""Whether regular TensorRT takes this GPU."""

from __future__ import annotations

from wavernn_trt.scripts.gpu.plans import plan_tasks
from wavernn_trt.scripts.gpu.tasks import Settings, Task


def tasks(settings: Settings) -> list[Task]:
    """See `plan_tasks`."""
    return plan_tasks("tensorrt", settings)
