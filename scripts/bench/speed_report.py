"""A speed report, laid out for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wavernn_trt.scripts.bench.cost import describe_costs
from wavernn_trt.scripts.bench.heading import heading
from wavernn_trt.scripts.bench.names import SUBJECTS
from wavernn_trt.scripts.bench.text_table import lay_out_table

_TIMES = {subject: f"x {name}" for name, subject in SUBJECTS.items()}
"""The heading of each peer's column."""
NOTES = """\
samples/s  all streams together, from mels to waveforms; median, and the lowest and highest repeat
RTF        real-time factor, seconds of work a second of speech; below 1 is faster than real time
first      milliseconds until every stream has its first 20 ms, the conditioner's work included
chunk      milliseconds that a chunk of all streams takes in the executor, each some 20 ms of speech or an engine's own
limit      share of the matrix product's FLOP/s, copy: share of the memory copy's bytes a second; both measured beside
           it, in the same rounds, on the CPU or GPU that it runs on
GB/s       the decoder's weights, once a step: weights that stay in a cache may exceed the copy
x PEER     times as fast as that peer at the same batch; of loop and graphs only the steps are timed, which favours
           them: mels are conditioned before\
"""


def lay_out(report: dict[str, Any]) -> Iterator[str]:
    """The report's lines for people."""
    yield from heading(report)
    yield f"settings  threads: {report['threads']}; {report['repeats']} repeats of {report['seconds']} s a stream"
    yield from _limits(report)
    loads = (f"{name} {load['median']:.2f} s (first {load['first']:.2f})" for name, load in report["loads"].items())
    yield f"opening   {', '.join(loads) or '-'}"
    yield ""
    peers = [peer for peer in report["peers"] if any(peer in result["times"] for result in report["results"])]
    price = report.get("price")
    head = ["", "batch", "samples/s", "(min..max)", "RTF", "first", "chunk", "GFLOP/s", "limit", "GB/s", "copy"]
    head += [_TIMES[peer] for peer in peers] + ([price["currency"]] if price else [])
    yield from lay_out_table(head, [_row(result, peers, priced=bool(price)) for result in report["results"]])
    width = max((len(subject) for subject in report["missing"]), default=0)
    for subject, reason in report["missing"].items():
        yield f"{subject:<{width}}  {reason}"
    for result in report["results"]:
        if engine := result.get("engine"):
            yield f"{result['subject']}, batch {result['batch']}: {engine}"
    yield ""
    yield NOTES
    yield from describe_costs(report)


def _limits(report: dict[str, Any]) -> Iterator[str]:
    limit = report["limit"]
    threads = {"onnxruntime": report["threads"], "numpy": report["numpy_threads"]}
    products = ", ".join(
        f"{name} {flops / 1e9:.1f} (threads: {threads[name]})" for name, flops in limit["flops"].items()
    )
    yield f"limit     float32 matrix product, GFLOP/s: {products}; taken: {limit['library']}"
    if copy := report["copy"]:
        yield f"copy      memory, read and written: {copy['bytes_per_second'] / 1e9:.1f} GB/s"
    if gpu := report["gpu_limit"]:
        products = ", ".join(f"{name} {flops / 1e12:.1f} TFLOP/s" for name, flops in gpu["flops"].items())
        yield f"gpu limit {products}; copy {report['gpu_copy']['bytes_per_second'] / 1e9:,.0f} GB/s"


def _row(result: dict[str, Any], peers: list[str], *, priced: bool) -> list[str]:
    cells = [
        _subject(result),
        str(result["batch"]),
        f"{result['samples_per_second']:.0f}",
        f"({result['slowest']:.0f}..{result['fastest']:.0f})",
        f"{result['real_time_factor']:.3f}",
        _milliseconds(result["first_chunk_seconds"]),
        _milliseconds(result["chunk_seconds"]),
        f"{result['flops'] / 1e9:.2f}",
        _percent(result["share_of_limit"]),
        f"{result['weight_bytes_per_second'] / 1e9:.2f}",
        _percent(result["share_of_copy"]),
    ]
    cells += [f"{result['times'][peer]:.2f}" if peer in result["times"] else "-" for peer in peers]
    return [*cells, f"{result['cost']:,.2f}"] if priced else cells


def _subject(result: dict[str, Any]) -> str:
    """With its place and precision, unless it computes in float32 on the CPU."""
    told = ["GPU"] * (result["place"] == "gpu") + [result["precision"] or ""] * (result["precision"] != "fp32")
    where = " ".join(filter(None, told))
    return f"{result['subject']} ({where})" if where else str(result["subject"])


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
