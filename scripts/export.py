"""``wavernn-trt export``: a trained checkpoint to a model directory."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wavernn_trt.scripts.arguments import path, positive_integer

if TYPE_CHECKING:
    from wavernn_trt.export.exporter import ExportResult
    from wavernn_trt.export.settings.table import Setting

DESCRIPTION = """\
Reads a trained WaveRNN checkpoint and writes a model directory: the conditioner, the decoder
unrolled to a static graph for TensorRT, and the same step in a loop for ONNX Runtime. Every
rewriting pass is checked numerically against the graph before it.
"""
EPILOG = """\
checkpoints (recognised by their tensors' names):
  univoc       UniversalVocoding 0.1 and 0.2: model-*.pt
  fatchord     fatchord/WaveRNN: latest_weights.pyt; Real-Time-Voice-Cloning: vocoder.pt;
               ForwardTacotron: wave_575K.pyt, wave_step575k.pt; G-Wang: checkpoint_step*.pth
  torchaudio   torchaudio.models.WaveRNN, and its example pipeline's checkpoints
  coqui        Coqui TTS, mozilla/TTS and erogol/WaveRNN: checkpoint_*.pth, best_model.pth.tar
  turian       turian/ and geneing/WaveRNN-Pytorch, one GRU: model.pt, checkpoint_step*.pth
  or a model directory, to export it again with other --steps or --batch

weights are found in any entry of the file (model_state, state_dict, model, generator, ema, …)
and under any prefix (module., _orig_mod., model., …); averaged weights are preferred, and
--entry NAME chooses. Read are both of torch's formats, safetensors, .npz, and a zip or tar
archive with one checkpoint (of several: --entry FILE or FILE:NAME); nothing in a file is run.

settings: sizes follow from the tensors. The rest is the first that states it of
  1. --set NAME=VALUE
  2. the settings inside the checkpoint (or in its archive), then those in --config FILE; where
     neither is there, a settings file beside it that is a WaveRNN's (config, hparams or params
     .json .yaml .py; read, never run)
  3. the preset: --preset NAME, or the version that the file or its settings are recognised
     as; the command prints it, and each setting that nothing states ("assumed")
Keys that are not used are named, and sources that contradict each other are refused.
--list-settings prints every key that is read, --list-presets the published versions.

Printed for each check: the largest absolute difference of logits and states. It passes up to
1e-4 of the largest value, and only if every sample is the same class; else nothing is written.

examples:
  wavernn-trt export model-160000.pt -o voices/ljspeech
  wavernn-trt export vocoder.pt -o voices/rtvc --preset rtvc
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
    parser.add_argument(
        "--preset", metavar="NAME", help="settings of a published version, for what no other source states"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file, if not the one beside the checkpoint"
    )
    parser.add_argument(
        "--entry", metavar="NAME", help="which of several networks in the file, such as ema or model.net"
    )
    parser.add_argument("--list-presets", action=_List, lines=_preset_lines, help="print the presets, and exit")
    parser.add_argument("--list-settings", action=_List, lines=_setting_lines, help="print the settings, and exit")
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


class _List(argparse.Action):
    """An option that prints lines and ends the command."""

    def __init__(self, lines: Callable[[], Iterator[str]], **options: Any) -> None:
        """Takes the lines to print."""
        super().__init__(nargs=0, **options)
        self._lines = lines

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for line in self._lines():
            print(line)
        parser.exit()


def _preset_lines() -> Iterator[str]:
    from wavernn_trt.export.settings.presets import PRESETS

    for preset in PRESETS.values():
        yield f"{preset.name}: {preset.about}"
        values = {"family": preset.family, "mode": preset.mode, "mu_law": preset.mu_law, **preset.audio}
        settings = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
        yield textwrap.fill(settings, 96, initial_indent="    ", subsequent_indent="    ")
        yield f"    read in {preset.source}"
        if preset.refused is not None:
            yield f"    not supported: {preset.refused}"


def _setting_lines() -> Iterator[str]:
    from wavernn_trt.export.settings.table import SETTABLE, SETTINGS

    yield "Settings that --set takes and a settings file may hold, with other projects' names for them:"
    for setting in SETTINGS:
        if setting.name in SETTABLE:
            yield _setting_line(setting)
    yield "Keys of settings files that these follow from, or that the weights' shapes are compared with:"
    for setting in SETTINGS:
        if setting.name not in SETTABLE:
            yield _setting_line(setting)


def _setting_line(setting: Setting) -> str:
    names = ", ".join((setting.name, *setting.aliases))
    return textwrap.fill(f"{names}: {setting.about}", 96, initial_indent="  ", subsequent_indent="      ")


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for setting in arguments.set:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"--set: found {setting!r}, expected NAME=VALUE, as in --set sample_rate=22050")
        if name in overrides:
            raise ValueError(f"--set: {name} is given twice; give it once")
        try:
            overrides[name] = json.loads(value)
        except (ValueError, RecursionError):
            overrides[name] = value  # a bare word
        if isinstance(overrides[name], list):
            overrides[name] = tuple(overrides[name])
    for name in ("family", "preset", "config", "temperature", "entry"):
        if getattr(arguments, name) is not None:
            if name in overrides:
                raise ValueError(f"--set {name} and --{name} are both given; give one of them")
            overrides[name] = getattr(arguments, name)
    return overrides


def _print(result: ExportResult) -> None:
    directory = result.directory
    model, audio, decoder = directory.model, directory.audio, directory.decoder
    for line in result.notes:
        print(f"note: {line}")
    by_reason: dict[str, list[str]] = {}
    for line in result.assumed:
        setting, _, reason = line.partition(": ")
        by_reason.setdefault(reason, []).append(setting)
    for reason, settings in by_reason.items():
        print(f"assumed: {', '.join(settings)}: {reason}")
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
        "preset": directory.source.get("preset"),
        "assumed": list(result.assumed),
        "notes": list(result.notes),
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
