"""``wavernn-trt export``: converts a trained checkpoint to a model directory."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wavernn_trt.export.operators import NATIVE_PRECISIONS
from wavernn_trt.scripts.arguments import add_command, path, positive_integer

if TYPE_CHECKING:
    from wavernn_trt.export.exporter import ExportResult
    from wavernn_trt.export.settings.table import Setting

DESCRIPTION = """\
Reads a trained WaveRNN checkpoint and writes a model directory: the conditioner, the decoder
unrolled to a static graph for TensorRT, and the same decoder as a loop for ONNX Runtime. Each
rewrite of a graph is checked numerically against the graph before it.
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

file formats: both formats of torch.save, safetensors, .npz, and a zip or tar archive with one
checkpoint (if it has several: --entry FILE or FILE:NAME). Code in a file is never executed.
Weights are found in any entry of the file (model_state, state_dict, model, generator, ema, …)
and under any prefix (module., _orig_mod., model., …). Averaged weights are preferred; --entry
NAME chooses others.

settings: sizes follow from the tensors. Each other setting is taken from the first of these
sources that has it:
  1. --set NAME=VALUE
  2. the settings inside the checkpoint (or in its archive), then --config FILE; without both, a
     WaveRNN settings file beside the checkpoint (config, hparams or params .json .yaml .py;
     parsed, never executed)
  3. a preset: --preset NAME, or the published version that the checkpoint is recognised as. The
     command prints which one
Settings without a source have defaults, which are printed as "assumed". Unused keys are
printed; contradictions between sources are errors. --list-settings prints all keys,
--list-presets the published versions.

Each check prints the largest absolute difference of logits and states. It passes if that is at
most 1e-4 of the largest value and all samples are equal; otherwise nothing is written.

examples:
  wavernn-trt export model-160000.pt -o voices/ljspeech
  wavernn-trt export vocoder.pt -o voices/rtvc --preset rtvc
  wavernn-trt export latest_weights.pyt -o voices/raw --set sample_rate=22050 --set mu_law=true
  wavernn-trt export checkpoint.pth -o voices/b64 --batch 64 --verify
"""


def add_parser(subparsers: Any) -> None:
    """Registers the subcommand."""
    parser = add_command(subparsers, "export", run, DESCRIPTION, EPILOG)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="a trained checkpoint, see below")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="DIR", help="model directory to write")
    parser.add_argument(
        "--steps",
        type=positive_integer,
        default=1024,
        metavar="N",
        help="samples per call of the unrolled decoder (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=positive_integer,
        default=1,
        metavar="N",
        help="streams that the unrolled decoder decodes together (default: 1)",
    )
    parser.add_argument("--family", metavar="NAME", help="fail if the checkpoint is of another family")
    parser.add_argument("--preset", metavar="NAME", help="use the settings of a published version, see above")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (default: the one beside the checkpoint)"
    )
    parser.add_argument(
        "--entry", metavar="NAME", help="which of several networks in the file to export, such as ema or model.net"
    )
    parser.add_argument("--list-presets", action=_List, lines=_preset_lines, help="print all presets and exit")
    parser.add_argument("--list-settings", action=_List, lines=_setting_lines, help="print all settings and exit")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="divide logits by T before sampling; below 1 is less noisy (default: 1)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting, see below; VALUE as in JSON; can be repeated",
    )
    parser.add_argument(
        "--cpu-precision",
        choices=NATIVE_PRECISIONS,
        help="default precision of the weights in the native CPU decoder (default: fp32, or that of a model directory "
        "that is exported again); 'wavernn-trt score --backend native --precision bf16,int8' measures what each loses",
    )
    parser.add_argument("--verify", action="store_true", help="also check the written decoder at its full length")
    parser.add_argument("--overwrite", action="store_true", help="overwrite DIR if it is a model directory")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(arguments: argparse.Namespace) -> int:
    """Writes the model directory; returns 0."""
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
            cpu_precision=arguments.cpu_precision,
            verify=arguments.verify,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(_as_json(result), indent=1))
    else:
        _print(result)
    return 0


class _List(argparse.Action):
    """An option that prints lines and exits, as ``--help`` does."""

    def __init__(self, lines: Callable[[], Iterator[str]], **options: Any) -> None:
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
        yield f"    source: {preset.source}"
        if preset.refused is not None:
            yield f"    not supported: {preset.refused}"


def _setting_lines() -> Iterator[str]:
    from wavernn_trt.export.settings.table import SETTABLE, SETTINGS

    yield "Settings for --set and settings files, with their names in other projects:"
    for setting in SETTINGS:
        if setting.name in SETTABLE:
            yield _setting_line(setting)
    yield "Other keys of settings files, which determine these settings or are compared with the weights:"
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
