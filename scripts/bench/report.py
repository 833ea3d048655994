"""A benchmark's numbers: reduced, and laid out for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from statistics import median
from typing import Any

from wavernn_trt.runtime.vocoder import VocoderConfig
from wavernn_trt.scripts.bench.speed_rounds import PLAIN_LOOP, Measurement, Timing

BUSY = 0.05
"""Share of all cores above which other processes' work is worth a warning."""
_BYTES = 4  # float32 weights
_ROW = "{subject:<14}{batch:>5}{speed:>11}{spread:>19}{rtf:>9}{first:>9}{chunk:>8}{gflops:>9}{share:>8}{ratio:>7}"
_HEAD = {
    "subject": "",
    "batch": "batch",
    "speed": "samples/s",
    "spread": "(min..max)",
    "rtf": "RTF",
    "first": "first",
    "chunk": "chunk",
    "gflops": "GFLOP/s",
    "share": "limit",
    "ratio": "loop",
}
NOTES = """\
samples/s  all streams together, from mels to waveforms; median, and the lowest and highest repeat
RTF        real-time factor, seconds of work a second of speech; below 1 is faster than real time
first      milliseconds until every stream has its first 20 ms, the conditioner's work included
chunk      milliseconds that a chunk of all streams takes in the executor, each some 20 ms of speech or an engine's own
limit      share of what a plain float32 matrix product reached beside it, in the same rounds
loop       times as fast as the plain PyTorch stepping loop at the same batch\
"""


def reduce(config: VocoderConfig, measured: Measurement, *, with_numpy: bool) -> dict[str, Any]:
    """Medians, spreads and ratios, with all repeats beside them.

    Ratios are taken within each round, and their median is reported: what slows the machine for a while slows both.

    Args:
        config: the model.
        measured: its repeats.
        with_numpy: whether numpy had the same number of threads, so that its matrix product may be the limit.
    """
    batches = list(dict.fromkeys(timing.batch for timing in measured.timings))
    # The better library's product is the limit, in each round at each batch.
    medians = {name: median(flops for row in rounds for flops in row) for name, rounds in measured.limit.items()}
    best = max((name for name in medians if with_numpy or name != "numpy"), key=lambda name: medians[name])
    loops = {timing.batch: timing for timing in measured.timings if timing.subject == PLAIN_LOOP}
    results = []
    for timing in measured.timings:
        limit = [row[batches.index(timing.batch)] for row in measured.limit[best]]
        results.append(_result(config, timing, limit, loops.get(timing.batch)))
    return {
        "model": describe_model(config),
        "limit": {"library": best, "flops": medians, "repeats": measured.limit},
        "loads": {
            backend: {"median": median(times), "first": times[0], "repeats": times}
            for backend, times in measured.loads.items()
        },
        "results": results,
        "missing": measured.missing,
    }


def describe_model(config: VocoderConfig) -> dict[str, Any]:
    """A model's sizes, for a report."""
    return {
        "path": str(config.path),
        "family": config.model.family,
        "hidden_size": config.model.hidden_size,
        "layers": config.model.layers,
        "fc_sizes": list(config.model.fc_sizes),
        "outputs": config.model.outputs,
        "sample_rate": config.audio.sample_rate,
        "multiply_adds": config.model.multiply_adds,
    }


def _result(config: VocoderConfig, timing: Timing, limit: list[float], loop: Timing | None) -> dict[str, Any]:
    speeds = [timing.samples / elapsed for elapsed in timing.elapsed]
    operations = 2 * config.model.multiply_adds
    result: dict[str, Any] = {
        "subject": timing.subject,
        "batch": timing.batch,
        "samples": timing.samples,
        "chunk_samples": timing.chunk_samples,
        "samples_per_second": median(speeds),
        "slowest": min(speeds),
        "fastest": max(speeds),
        "real_time_factor": config.audio.sample_rate / median(speeds),
        "first_chunk_seconds": median(timing.first_chunk) if timing.first_chunk else None,
        "chunk_seconds": median(timing.chunk) if timing.chunk else None,
        "flops": operations * median(speeds),
        "share_of_limit": median(operations * speed / most for speed, most in zip(speeds, limit, strict=True)),
        "weight_bytes_per_second": _BYTES * config.model.multiply_adds * median(speeds) / timing.batch,
        "times_plain_loop": None,
        "repeats": dataclasses.asdict(timing),
    }
    if loop is not None:
        pairs = zip(speeds, loop.elapsed, strict=True)
        result["times_plain_loop"] = median(speed / (loop.samples / elapsed) for speed, elapsed in pairs)
    return result


def heading(report: dict[str, Any]) -> Iterator[str]:
    """Lines that say what ran on what."""
    machine, model = report["machine"], report["model"]
    memory = f", {machine['memory_gib']} GiB memory" if machine["memory_gib"] else ""
    cores = f"{machine['cores']} cores ({machine['usable_cores']} usable)"
    yield f"machine   {machine['cpu']}, {cores}{memory}, {machine['system']}"
    versions = (f"{name} {version or '(not installed)'}" for name, version in report["versions"].items())
    yield f"versions  {', '.join(versions)}"
    if report.get("others_share") is not None:
        busy = "" if report["others_share"] < BUSY else ": a quiet machine will say something else"
        yield f"busy      other processes took {100 * report['others_share']:.0f} % of all cores meanwhile{busy}"
    layers = f"{model['layers']} x GRU {model['hidden_size']}, {'/'.join(map(str, model['fc_sizes']))} -> "
    flop = f"{2 * model['multiply_adds'] / 1e6:.2f} MFLOP a sample"
    yield f"model     {model['path']}: {model['family']}, {layers}{model['outputs']}, {model['sample_rate']} Hz, {flop}"


def lay_out(report: dict[str, Any]) -> Iterator[str]:
    """The report's lines for people."""
    limit = report["limit"]
    yield from heading(report)
    threads = {"onnxruntime": report["threads"], "numpy": report["numpy_threads"]}
    yield f"settings  threads: {report['threads']}; {report['repeats']} repeats of {report['seconds']} s a stream"
    products = ", ".join(
        f"{name} {flops / 1e9:.1f} (threads: {threads[name]})" for name, flops in limit["flops"].items()
    )
    yield f"limit     float32 matrix product, GFLOP/s: {products}; taken: {limit['library']}"
    loads = (f"{name} {load['median']:.2f} s (first {load['first']:.2f})" for name, load in report["loads"].items())
    yield f"opening   {', '.join(loads)}"
    yield ""
    yield _ROW.format(**_HEAD)
    for result in report["results"]:
        ratio = result["times_plain_loop"]
        yield _ROW.format(
            subject=result["subject"],
            batch=result["batch"],
            speed=f"{result['samples_per_second']:.0f}",
            spread=f"({result['slowest']:.0f}..{result['fastest']:.0f})",
            rtf=f"{result['real_time_factor']:.3f}",
            first=_milliseconds(result["first_chunk_seconds"]),
            chunk=_milliseconds(result["chunk_seconds"]),
            gflops=f"{result['flops'] / 1e9:.2f}",
            share=f"{100 * result['share_of_limit']:.1f} %",
            ratio="-" if ratio is None else f"{ratio:.2f}",
        )
    for subject, reason in report["missing"].items():
        yield f"{subject:<14}{reason}" if len(subject) < 14 else f"{subject}  {reason}"
    yield ""
    yield NOTES


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"
