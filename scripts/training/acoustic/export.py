"""Exports a trained acoustic model: `python -m wavernn_trt.scripts.training.acoustic.export --help`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wavernn_trt.export.acoustic.exporter import export_acoustic_model
from wavernn_trt.export.model_directory import file_sha256
from wavernn_trt.scripts.training.corpus import AUDIO
from wavernn_trt.scripts.training.model import load
from wavernn_trt.scripts.training.recipe import RecipeError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 2 after an error of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m wavernn_trt.scripts.training.acoustic.export",
        description="Export an acoustic model to a directory with ONNX graphs, which 'wavernn-trt speak' reads.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="ACOUSTIC.PT", help="written by acoustic.train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the directory to make")
    parser.add_argument("--corpus", type=Path, required=True, help="what it was trained on; its origin is recorded")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it is a model directory")
    options = parser.parse_args(arguments)
    try:
        checkpoint = load(options.checkpoint)
        source = {
            "checkpoint": options.checkpoint.name,
            "sha256": file_sha256(options.checkpoint),
            "updates": checkpoint["step"],
            **_origin(options.corpus / "corpus.json"),
        }
        directory = export_acoustic_model(checkpoint, AUDIO, options.output, source, overwrite=options.overwrite)
    except KeyError as error:
        print(f"export: {options.checkpoint}: found no {error}, expected an acoustic.pt", file=sys.stderr)
        return 2
    except (RecipeError, ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    print(directory.path)
    return 0


def _origin(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return {name: description[name] for name in ("origin", "licence", "speaker", "sentences")}
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: expected the corpus.json of synthetic_corpus ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
