"""Runs one measurement, with its failure as a finding and a time limit, and repeats what is timed."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Callable, Iterator

from wavernn_trt.plugins import driver
from wavernn_trt.scripts.gpu.findings import FindingsFile

RUNS, WARM_UP = 20, 2
"""Timed runs, and those before them."""
TASK_SECONDS = 30.0
"""A task that takes longer hangs."""


@contextlib.contextmanager
def task(findings: FindingsFile, name: str, kernel: str = "", precision: str = "") -> Iterator[None]:
    """Turns what is raised into a finding, and ends the process if it hangs or its context is lost."""
    findings.begin(name, kernel, precision)
    faulthandler.dump_traceback_later(TASK_SECONDS, exit=True)
    try:
        yield
    except Exception as error:  # every failure is a line of the table
        findings.add(name, "failed", f"{type(error).__name__}: {error}", kernel=kernel, precision=precision)
        if driver.is_lost():
            sys.exit(f"the CUDA context is lost: {error}")
    finally:
        faulthandler.cancel_dump_traceback_later()


def repeats(measure: Callable[[], float], runs: int) -> list[float]:
    """Measures so many times after a warm-up."""
    for _ in range(WARM_UP):
        measure()
    return [measure() for _ in range(runs)]
