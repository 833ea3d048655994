"""The report of ``wavernn-trt quantize``, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.config import ModelConfig
from wavernn_trt.export.quantization import Quantization, product_names

if TYPE_CHECKING:
    from wavernn_trt.calibration.loss import Choice
    from wavernn_trt.calibration.score import Speech


@dataclass
class HeldOut:
    """Recordings to measure the loss on, and those that could not be used."""

    speech: list[tuple[Path, Speech]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """The measured loss."""

    bits: float
    """Bits per sample of the model in float32."""
    choice: Choice


def make_report(
    model: ModelConfig,
    sample_rate: int,
    quantization: Quantization,
    measured: Measured | None,
    held_out: HeldOut,
    failed: Sequence[tuple[Path, str]],
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the report as JSON values.

    Args:
        model: the configuration.
        sample_rate: of the model, in Hz.
        quantization: of the written directory.
        measured: ``None`` without recordings to measure on.
        held_out: those recordings.
        failed: recordings that could not be used, for calibration or measurement.
        asked: the arguments of the command, which come first.
    """
    choice = None if measured is None else measured.choice
    rounded = quantization.products
    return {
        **asked,
        "table_sha256": quantization.table,
        "bits": None if measured is None else measured.bits,
        "loss": None if choice is None else choice.loss,
        "products": [
            {
                "name": name,
                "precision": str(rounded[name]) if name in rounded else "fp32",
                "bound": rounded[name].bound if name in rounded else None,
                "loss_alone": None if choice is None else choice.sensitivity.get(name),
            }
            for name in product_names(model)
        ],
        "kept_for_budget": [] if choice is None else list(choice.kept),
        "held_out": [
            {"input": str(path), "seconds": len(speech.waveform) / sample_rate} for path, speech in held_out.speech
        ],
        "failed": [{"input": str(path), "error": reason} for path, reason in failed],
    }


def format_report(report: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of the report as text."""
    yield f"{'product':<12}  {'precision':<12}  {'bound':>8}  {'loss alone':>10}"
    for product in report["products"]:
        bound = "-" if product["bound"] is None else f"{product['bound']:.3f}"
        loss = "-" if product["loss_alone"] is None else f"{product['loss_alone']:+.4f}"
        note = "  kept for the budget" if product["name"] in report["kept_for_budget"] else ""
        yield f"{product['name']:<12}  {product['precision']:<12}  {bound:>8}  {loss:>10}{note}"
    if report["loss"] is None:
        yield "loss not measured: name recordings with --held-out"
    else:
        seconds = sum(one["seconds"] for one in report["held_out"])
        bits = report["bits"] + report["loss"]
        together = f"{report['loss']:+.4f} bits per sample together: {bits:.4f}, " if report["output"] else ""
        count = len(report["held_out"])
        on = f"on {count} recording{'s' if count > 1 else ''}, {seconds:.1f} s"
        yield f"{together}in float32 {report['bits']:.4f} bits per sample; {on}"
    if report["output"]:
        yield f"wrote {report['output']}"
    if report["table"]:
        yield f"activation ranges: {report['table']}"
