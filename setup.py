"""The native decoder as an extension module; setup.cfg describes everything else."""

import sysconfig
from glob import glob

from setuptools import Extension, setup

# GCC's and clang's. Without -ffp-contract=off, results depend on the compiler and the machine. No instruction set is
# named: the files of plugins/cpu select their own, and the machine's is found when the library is used.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off", "-fno-lto", "-pthread"]

# Free-threaded Python has no limited API before 3.15.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "wavernn_trt.plugins.cpu._native",
            sources=sorted(glob("plugins/cpu/*.cpp")),
            depends=[*sorted(glob("plugins/cpu/*.h")), "setup.py"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")] if LIMITED else [],
            extra_compile_args=FLAGS,
            extra_link_args=["-fno-lto", "-pthread"],
            language="c++",
            optional=True,  # without a compiler, the package installs and decodes with ONNX Runtime
            py_limited_api=LIMITED,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if LIMITED else {},
)
