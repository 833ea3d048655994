"""``wavernn-trt export``: a trained checkpoint to a model directory."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wavernn_trt.scripts.arguments import path, positive_integer

if TYPE_CHECKING:
    from wavernn_trt.export.exporter import ExportResult

DESCRIPTION = """\
Reads a trained WaveRNN checkpoint and writes a model directory: the conditioner, the decoder
unrolled to a static graph for TensorRT, and the same step in a loop for ONNX Runtime. Every
rewriting pass is checked numerically against the graph before it.
"""
EPILOG = """\
checkpoints (recognised by their tensors' names):
  univoc       model-*.pt of UniversalVocoding, with config.yaml beside it
  fatchord     latest_weights.pyt of WaveRNN (RAW or MOL)
  torchaudio   state dict of torchaudio.models.WaveRNN
  coqui        checkpoint_*.pth of Coqui TTS' wavernn, with config.json beside it
  turian       state dict of turian's one-GRU variant
  or a model directory, to export it again with other --steps or --batch

The weights are found in any entry of the file (model_state, state_dict, model, generator, ema, ...)
and under any prefix (module., _orig_mod., model., ...). Averaged weights are preferred to others;
--entry NAME chooses. .pt files of both of torch's formats, safetensors, .npz, and a zip or tar archive
with one checkpoint are read; nothing in a file is ever run. What stands in an archive with several is
chosen with --entry FILE or --entry FILE:NAME.

Sizes come from the tensors. What they cannot tell comes from --set, else from the config file
beside the checkpoint (config.yaml, config.json, hparams.json or params.json, such as
{"sample_rate": 22050, "mu_law": true}), or else is the family's default, and then the command
says so. Settings:
  mode (raw, mol, gauss or a number of bits), mu_law, sample_rate, hop_length, win_length, n_fft,
  n_mels, fmin, fmax, mel_norm, pad_mode, preemphasis, log, reference_db, min_level_db, mel_range,
  clip_high, waveform_preemphasis, peak, delay

Printed for each check: the largest absolute difference of logits and states. It passes up to
1e-4 of the largest value, and only if every sample is the same class; else nothing is written.

examples:
  wavernn-trt export model-160000.pt -o voices/ljspeech
  wavernn-trt export latest_weights.pyt -o voices/raw --set sample_rate=22050 --set mu_law=true
  wavernn-trt export checkpoint.pth -o voices/b64 --batch 64 --verify
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="make a model directory from a trained checkpoint",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="a trained checkpoint, see below")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="DIR", help="the model directory to make")
    parser.add_argument(
        "--steps", type=positive_integer, default=1024, metavar="N", help="steps to unroll (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=positive_integer, default=1, metavar="N", help="streams of the unrolled decoder (default: 1)"
    )
    parser.add_argument("--family", metavar="NAME", help="refuse any other family than this one")
    parser.add_argument("--config", type=Path, metavar="FILE", help="config file, if not the one beside the checkpoint")
    parser.add_argument(
        "--entry",
        metavar="NAME",
        help="which of several networks in the file, such as ema or model.net",
    )
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="sample from logits / T: below 1 is less noisy (default: 1)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting, see below; values as in JSON; may be given several times",
    )
    parser.add_argument("--verify", action="store_true", help="check the finished decoder at its full length, too")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it is a model directory")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Exports; returns 0."""
    overrides = _overrides(arguments)
    try:
        from wavernn_trt.export import export, read_checkpoint
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from None
    stages = 5 if arguments.verify else 4
    form = "{desc} |{bar}| {elapsed}"
    with tqdm(total=stages, disable=arguments.quiet, bar_format=form, dynamic_ncols=True) as bar:

        def progress(stage: str) -> None:
            bar.set_description_str(stage, refresh=False)
            bar.update()

        progress("reading the checkpoint")
        checkpoint = read_checkpoint(arguments.checkpoint, **overrides)
        result = export(
            checkpoint,
            arguments.output,
            arguments.steps,
            arguments.batch,
            verify=arguments.verify,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    if arguments.json:
        json.dump(_as_json(result), sys.stdout, indent=1)
        print()
    else:
        _print(result)
    return 0


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for setting in arguments.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set: found {setting!r}, expected NAME=VALUE, as in --set sample_rate=22050")
        try:
            overrides[name] = json.loads(value)
        except ValueError:
            overrides[name] = value  # a bare word
        if isinstance(overrides[name], list):
            overrides[name] = tuple(overrides[name])
    for name in ("family", "config", "temperature", "entry"):
        if getattr(arguments, name) is not None:
            overrides[name] = getattr(arguments, name)
    return overrides


def _print(result: ExportResult) -> None:
    directory = result.directory
    model, audio, decoder = directory.model, directory.audio, directory.decoder
    for line in result.assumed:
        print(f"assumed: {line}")
    print(
        f"{directory.path}: {model.family}, hidden {model.hidden_size}, {model.outputs} outputs ({model.output}), "
        f"{audio.sample_rate} Hz, hop {audio.hop_length}; {decoder.steps} steps, batch {decoder.batch}"
    )
    width = max(len(agreement.what) for agreement in result.agreements)
    for one in result.agreements:
        samples = "" if one.samples is None else f", {one.equal_samples} of {one.samples} samples equal"
        print(f"  {one.what:<{width}}  {one.steps:5} steps, largest error {one.largest_error:.1e}{samples}")


def _as_json(result: ExportResult) -> dict[str, Any]:
    directory = result.directory
    return {
        "directory": str(directory.path),
        "family": directory.model.family,
        "steps": directory.decoder.steps,
        "batch": directory.decoder.batch,
        "assumed": list(result.assumed),
        "checks": [
            {
                "what": one.what,
                "steps": one.steps,
                "equal_samples": one.equal_samples,
                "samples": one.samples,
                "largest_error": one.largest_error,
                "scale": one.scale,
            }
            for one in result.agreements
        ],
    }
