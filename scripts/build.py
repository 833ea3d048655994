"""``wavernn-trt build``: builds the TensorRT plans of a model directory."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wavernn_trt.scripts import notice
from wavernn_trt.scripts.arguments import add_command, path, positive_integer, positive_number

if TYPE_CHECKING:
    from wavernn_trt.engines.cache import CachedPlan
    from wavernn_trt.engines.spec import Backend, EngineSpec, Extent
    from wavernn_trt.export.quantization import Quantization

DESCRIPTION = """\
Builds the engine of a model directory: one TensorRT plan for the conditioner and one for the
decoder. Plans are stored in a cache; a plan that is already in the cache is not built again.
TensorRT-RTX also builds on a machine without a GPU; regular TensorRT builds for the GPU of this
machine.
"""
EPILOG = """\
forms:
  sequence   one WaveRNNSequencePlugin node for all steps: builds in seconds, one kernel per chunk
  cell       unrolled steps, one CustomGRUPlugin node per GRU cell: builds in minutes

compute capabilities (--sm) of TensorRT-RTX:
  80  A100, A30             86  RTX 30 series, A10, A40       89  RTX 40 series, L4, L40
  120 RTX 50 series         121 GB10
  For other GPUs (90: H100, H200; 100: B200), use regular TensorRT on a machine with that GPU.

precision:
  --precision applies to the decoder's matrix products. Gates, softmax, sampling and the whole
  conditioner stay in float32. For a quantised model directory, form cell (its default) runs the
  quantised products in int8 or fp8 and the others in --precision; form sequence runs all products
  in --precision with the rounded weights. fp8 needs compute capability 89 or higher.

An engine decodes --batch streams together. A waveform depends on its mel, its seed and the
engine, never on the other streams.

examples:
  wavernn-trt build                                    the shipped voice, for 80, 86, 89 and 120
  wavernn-trt build voices/mine --batch 64 --precision bf16 --sm 89
  wavernn-trt build voices/mine --form cell --batch 1:8:64
  wavernn-trt engines list
"""
_DEFAULT_TARGETS = (80, 86, 89, 120)


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "build", run, DESCRIPTION, EPILOG)
    parser.add_argument(
        "directory", type=path, nargs="?", metavar="DIR", help="a model directory (default: the shipped voice)"
    )
    parser.add_argument(
        "--backend",
        choices=("tensorrt", "tensorrt-rtx"),
        help="which TensorRT builds (default: tensorrt if it is installed and there is a GPU, else tensorrt-rtx)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp16",
        help="precision of the decoder's matrix products (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=_extent,
        metavar="N",
        help="streams decoded together; MIN:OPT:MAX for a range, chosen when the engine is loaded (default: 8)",
    )
    parser.add_argument(
        "--sm",
        type=_targets,
        metavar="LIST",
        help="compute capabilities to build for, as in 86,89 (default: that of the GPU; without a GPU, those of "
        "80,86,89,120 that support the precisions of the directory)",
    )
    parser.add_argument(
        "--form",
        choices=("sequence", "cell"),
        help="see above (default: sequence; cell for a quantised directory)",
    )
    parser.add_argument(
        "--steps",
        type=positive_integer,
        metavar="N",
        help="samples per chunk (default: 1024; 64 for a quantised directory in form cell, which builds slowly)",
    )
    parser.add_argument(
        "--frames", type=_extent, metavar="N", help="frames of a mel, MIN:OPT:MAX or one length (default: 2:512:4096)"
    )
    parser.add_argument(
        "-o", "--cache", type=path, metavar="CACHE", help="folder for the plans (default: the user's cache folder)"
    )
    parser.add_argument(
        "--memory-limit", type=positive_number, metavar="GIB", help="stop a build that uses more (default: no limit)"
    )
    parser.add_argument("--json", action="store_true", help="print the plans as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Builds the engine; returns 0.

    Raises:
        ValueError: wrong arguments, or TensorRT did not build a plan.
    """
    from wavernn_trt.engines.build import EngineBuildError, build_engine
    from wavernn_trt.engines.cache import EngineCache
    from wavernn_trt.engines.spec import describe_rounding
    from wavernn_trt.engines.tensorrt_module import tensorrt_version
    from wavernn_trt.export.model_directory import open_model_directory
    from wavernn_trt.runtime.vocoder import shipped_voice

    backend = _backend(arguments.backend)
    _spec(arguments, backend, None)  # reports wrong arguments before a missing TensorRT
    tensorrt_version(backend)
    directory = open_model_directory(arguments.directory or shipped_voice())
    spec = _spec(arguments, backend, directory.quantization)
    if (rounding := describe_rounding(spec, directory.quantization)) is not None:
        notice(rounding)
    cache = EngineCache(arguments.cache)
    # At most a PiB: the system rejects larger limits, and no machine has as much.
    limit = None if arguments.memory_limit is None else round(min(arguments.memory_limit, 2**20) * 2**30)
    started = time.perf_counter()
    with _Bar(hidden=arguments.quiet) as bar:
        try:
            engine = build_engine(directory, spec, cache, progress=bar.show, memory_limit=limit)
        except EngineBuildError as error:
            raise ValueError(str(error)) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt("finished plans are kept; the unfinished one was removed") from None
    plans = (engine.conditioner, engine.decoder)
    elapsed = time.perf_counter() - started
    if arguments.json:
        values = [
            {"plan": str(plan.plan), **plan.record.to_json(), "built": plan.record.role in engine.built}
            for plan in plans
        ]
        print(json.dumps(values, indent=1))
    else:
        for plan in plans:
            print(_line(plan, built=plan.record.role in engine.built))
    if not arguments.quiet:
        notice(f"engine ready after {elapsed:.1f} s, in {cache.folder}")
    return 0


class _Bar:
    """A progress bar on stderr for each plan."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden
        self._bar: Any = None
        self._role = ""

    def show(self, role: str, stage: str, share: float) -> None:
        """Shows progress of `build_engine`."""
        description = f"{role}: {stage}"[:46]
        if role != self._role:
            self.close()
            self._role = role
            self._bar = tqdm(
                desc=description,
                total=100.0,
                disable=self._hidden,
                bar_format="{desc:<46} {percentage:3.0f}%|{bar}| {elapsed}",
                dynamic_ncols=True,
                mininterval=0.1 if sys.stderr.isatty() else 10.0,
            )
        self._bar.set_description_str(description, refresh=False)
        self._bar.update(max(0.0, 100.0 * share - self._bar.n))

    def close(self) -> None:
        """Ends the current bar; it stays visible."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _backend(name: str | None) -> Backend:
    from wavernn_trt.engines.gpu import driver_state

    if name is not None:
        return "tensorrt" if name == "tensorrt" else "tensorrt_rtx"
    return "tensorrt" if driver_state().devices and importlib.util.find_spec("tensorrt") else "tensorrt_rtx"


def _spec(arguments: argparse.Namespace, backend: Backend, quantization: Quantization | None) -> EngineSpec:
    from wavernn_trt.engines.gpu import driver_state
    from wavernn_trt.engines.spec import EngineSpec, Extent, able_targets, default_form, default_steps

    form = arguments.form or default_form(quantization)
    targets = arguments.sm or ()
    if not targets and backend == "tensorrt_rtx":
        present = tuple(sorted({device.sm for device in driver_state().devices}))
        targets = present or able_targets(_DEFAULT_TARGETS, form, quantization)
    return EngineSpec(
        backend=backend,
        precision=arguments.precision,
        batch=arguments.batch or Extent.of(8),
        steps=arguments.steps or default_steps(form, quantization),
        form=form,
        targets=targets,
        frames=arguments.frames or Extent.of("2:512:4096"),
    )


def _line(plan: CachedPlan, *, built: bool) -> str:
    from wavernn_trt.scripts.engines_report import describe_products

    record = plan.record
    products = "" if record.products is None else f"; products in {describe_products(record.products)}"
    how = "built in" if built else "in the cache; took"
    return (
        f"{plan.plan.name}: {record.plan_bytes / 1e6:.1f} MB, {how} {record.build_seconds:.1f} s "
        f"and {record.peak_bytes / 2**30:.2f} GiB{products}"
    )


def _extent(text: str) -> Extent:
    from wavernn_trt.engines.spec import EngineSpecError, Extent

    try:
        return Extent.of(text)
    except EngineSpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _targets(text: str) -> tuple[int, ...]:
    words = text.lower().split(",")
    numbers = [word.removeprefix("sm").removeprefix("_").replace(".", "") for word in words]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected compute capabilities, as in 86,89")
    return tuple(sorted(set(map(int, numbers))))
