"""``wavernn-trt inspect DIR --mel M --recording R``: compares a mel spectrogram with a model's features."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import open_model_directory

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig
    from wavernn_trt.runtime.mel_comparison import MelComparison


def inspect_mel(directory: Path, mel: Path | None, recording: Path | None, *, as_json: bool) -> int:
    """Compares a mel with a model, prints what differs and returns the exit code: 1 if something differs.

    Args:
        directory: the model directory.
        mel: the mel's file.
        recording: file of the recording that the mel was computed from; ``None`` checks the mel's shape and range only.
        as_json: whether to print JSON instead of text.

    Raises:
        ValueError: a file cannot be read, or ``mel`` is ``None``.
    """
    from wavernn_trt.runtime.files.mel_file import read_mel
    from wavernn_trt.runtime.files.recording import read_recording

    if mel is None:
        raise ValueError("--recording: found no --mel, expected the mel that was computed from this recording as well")
    if directory.suffix == ".plan" and not directory.is_dir():
        raise ValueError("--mel: found a plan, expected the model directory that it was built from")
    audio = open_model_directory(directory).audio
    values = read_mel(mel)
    if recording is None:
        return _print_checks(mel, _checks(values, audio), as_json=as_json)
    from wavernn_trt.runtime.mel_comparison import compare_mel

    speech = read_recording(recording)
    comparison = compare_mel(values, speech.samples, speech.sample_rate, audio)
    if as_json:
        print(json.dumps({"mel": str(mel), "recording": str(recording), **_comparison_values(comparison)}, indent=1))
    else:
        _print_comparison(mel, recording, comparison)
    return int(not comparison.fits)


def _comparison_values(comparison: MelComparison) -> dict[str, Any]:
    """Returns a comparison as JSON values."""
    values = {"fits": comparison.fits, "identified": comparison.identified, **dataclasses.asdict(comparison)}
    for name in ("deviation_db", "residual_db"):
        values[name] = values[name] if math.isfinite(values[name]) else None
    return values


def _checks(mel: Any, audio: AudioConfig) -> list[str]:
    """Returns the faults of a mel that show without the recording."""
    from wavernn_trt.runtime.errors import VocoderError
    from wavernn_trt.runtime.mel import check_mel
    from wavernn_trt.runtime.mel_comparison.warnings import mel_warnings

    try:
        check_mel(mel, audio)
    except VocoderError as error:
        return [str(error)]
    return mel_warnings(mel, audio)


def _print_checks(mel: Path, found: list[str], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"mel": str(mel), "recording": None, "fits": not found, "warnings": found}, indent=1))
        return int(bool(found))
    for text in found:
        print(f"{mel}: {text.removeprefix('mel: ')}")
    if not found:
        print(f"{mel}: shape and range fit the model; --recording R also compares hop, levels, filters, sample rate …")
    return int(bool(found))


def _print_comparison(mel: Path, recording: Path, comparison: MelComparison) -> None:
    verdict = "fits the model" if comparison.fits else "does not fit the model"
    print(f"{mel} {verdict}; compared with the model's own features of {recording}")
    for fault in comparison.faults:
        print(f"\n{fault.kind}")
        print(f"  found     {fault.found}")
        print(f"  expected  {fault.expected}")
        print(f"  convert   {fault.remedy}")
    if comparison.convention is not None and all(fault.convertible for fault in comparison.faults):
        option = f"--mel-from {comparison.convention}"
        print(f"\nThese are the levels of {option}: wavernn-trt vocode {mel} {option} …")
    if not comparison.identified:
        print(f"\n{_unidentified(comparison)}")
    for note in comparison.notes:
        print(f"\nnote: {note}")
    if math.isfinite(comparison.deviation_db):
        print(f"\nwithout conversion, the mel is {comparison.deviation_db:.2f} dB off (root mean square)")
    if comparison.faults and math.isfinite(comparison.residual_db):
        print(f"\nremaining difference after the conversions above: {comparison.residual_db:.2f} dB")


def _unidentified(comparison: MelComparison) -> str:
    if not math.isfinite(comparison.residual_db):
        return "It differs; the cause is not identified: the mel has nothing in common with this recording."
    return (
        f"{'More differs' if comparison.faults else 'It differs'}; the cause is not identified: "
        f"{comparison.residual_db:.1f} dB are unexplained. The prediction of an acoustic model differs as much from a "
        "recording: compare a mel that was computed from the recording."
    )
