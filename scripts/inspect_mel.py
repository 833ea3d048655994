"""``wavernn-trt inspect DIR --mel M --recording R``: whether a mel spectrogram is what a model was trained on."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavernn_trt.export.model_directory import open_model_directory

if TYPE_CHECKING:
    from wavernn_trt.export.config import AudioConfig
    from wavernn_trt.runtime.mel_comparison import MelComparison


def inspect_mel(directory: Path, mel: Path | None, recording: Path | None, *, as_json: bool) -> int:
    """Compares a mel with a model and prints what differs.

    Args:
        directory: the model directory.
        mel: a file with the mel.
        recording: a file with the recording that the mel was computed from; ``None``: only the mel itself is checked.
        as_json: print JSON instead of lines for people.

    Returns:
        0 if the mel fits the model, 1 if something differs.

    Raises:
        ValueError: a file cannot be read, or there is no mel.
    """
    from wavernn_trt.runtime.files.mel_file import read_mel
    from wavernn_trt.runtime.files.recording import read_recording

    if mel is None:
        raise ValueError(
            "--recording: found no --mel, expected the mel that was computed from this recording beside it"
        )
    if directory.suffix == ".plan" and not directory.is_dir():
        raise ValueError("--mel: found a plan, expected the model directory that it was built from")
    audio = open_model_directory(directory).audio
    values = read_mel(mel)
    if recording is None:
        return _print_checks(mel, _checks(values, audio), as_json=as_json)
    from wavernn_trt.runtime.mel_comparison import compare_mel

    heard = read_recording(recording)
    comparison = compare_mel(values, heard.samples, heard.sample_rate, audio)
    if as_json:
        _print_json({"mel": str(mel), "recording": str(recording), **comparison_values(comparison)})
    else:
        _print_comparison(mel, recording, comparison)
    return int(not comparison.fits)


def comparison_values(comparison: MelComparison) -> dict[str, Any]:
    """A comparison as JSON has it."""
    values = {"fits": comparison.fits, "identified": comparison.identified, **dataclasses.asdict(comparison)}
    for name in ("deviation_db", "residual_db"):
        values[name] = values[name] if math.isfinite(values[name]) else None
    return values


def _checks(mel: Any, audio: AudioConfig) -> list[str]:
    """What is wrong with a mel, seen without the recording."""
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
        _print_json({"mel": str(mel), "recording": None, "fits": not found, "warnings": found})
        return int(bool(found))
    for text in found:
        print(f"{mel}: {text.removeprefix('mel: ')}")
    if not found:
        print(
            f"{mel}: shape and range are the model's; --recording R also compares hop, levels, filters, sample rate …"
        )
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
        print(f"\nThese are the levels of --mel-from {comparison.convention}: wavernn-trt vocode {mel} --mel-from "
              f"{comparison.convention} …")  # fmt: skip
    if not comparison.identified:
        print(f"\n{_unidentified(comparison)}")
    for note in comparison.notes:
        print(f"\nnote: {note}")
    if math.isfinite(comparison.deviation_db):
        print(f"\nas the model reads it, the mel is {comparison.deviation_db:.2f} dB off (root mean square)")
    if comparison.faults and math.isfinite(comparison.residual_db):
        print(f"\nleft once the above is taken into account: {comparison.residual_db:.2f} dB")


def _unidentified(comparison: MelComparison) -> str:
    if not math.isfinite(comparison.residual_db):
        return "It differs; the cause is not identified: the mel has nothing in common with this recording."
    return (
        f"{'More differs' if comparison.faults else 'It differs'}; the cause is not identified: "
        f"{comparison.residual_db:.1f} dB are unexplained. The prediction of an acoustic model differs as much from a "
        "recording: compare a mel that was computed from the recording."
    )


def _print_json(values: dict[str, Any]) -> None:
    json.dump(values, sys.stdout, indent=1)
    print()
