"""A driver's library in C, with only what is asked of one before anything runs: its GPUs, their names, their age."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#include <stdlib.h>
#include <string.h>

static int asked(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

int cuInit(unsigned flags) { return asked("FAKE_ERROR", 0); }
int cuDeviceGetCount(int *count) { *count = asked("FAKE_GPUS", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
  strncpy(name, device == 40 ? "NVIDIA Pretended 4000" : "NVIDIA Pretended 5000", size);
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  if (attribute == 75) *value = device == 40 ? 8 : 12;
  if (attribute == 76) *value = device == 40 ? 9 : 0;
  return attribute == 75 || attribute == 76 ? 0 : 1;
}
int cuGetErrorName(int code, const char **name) {
  if (code != 803) return 1;
  *name = "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH";
  return 0;
}
"""


def build(folder: Path) -> Path:
    """Compiles it and returns the folder that it is in."""
    compiler = next((path for name in ("gcc", "cc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("needs a C compiler to make a library like the driver's")
    source = folder / "driver.c"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder
