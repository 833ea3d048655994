"""Finds and parses the configuration file that belongs to a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wavernn_trt.export.config import Family
from wavernn_trt.export.conventions import CONFIG_FILES
from wavernn_trt.export.errors import CheckpointError

_STRING_OR_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')
_DEEPEST = 20


def find_config_file(family: Family, checkpoint: Path, given: object = None) -> tuple[Path | None, tuple[str, ...]]:
    """The configuration file to read, and a line for the user where there was a choice.

    Args:
        family: whose checkpoint it is.
        checkpoint: its path; the file is looked for in the same folder.
        given: the path of the file, where the user names one.

    Raises:
        CheckpointError: the file that the user named is not there.
    """
    if given is not None:
        if not isinstance(given, str | Path):
            raise CheckpointError(f"config: found {given!r}, expected the path of a configuration file")
        path = Path(given)
        if not path.is_file():
            raise CheckpointError(f"config: {path} is not there; expected the file that the training was set up with")
        return path, ()
    found: list[Path] = []
    for pattern in CONFIG_FILES[family]:
        matches = [path for path in sorted(checkpoint.parent.glob(pattern)) if path not in found and path.is_file()]
        found += [path for path in matches if "*" not in pattern or _is_a_training_s(path)]
    if len(found) < 2:
        return (found[0] if found else None), ()
    others = ", ".join(other.name for other in found[1:])
    return found[0], (f"settings are {found[0].name}'s; beside it there is also {others} (config names another)",)


def _is_a_training_s(path: Path) -> bool:
    """Whether a file that only its suffix speaks for has a section that univoc's configurations have."""
    try:
        values = parse_config_file(path)
    except CheckpointError:
        return False
    return isinstance(values, dict) and not {"preprocess", "model"}.isdisjoint(values)


def parse_config_file(path: Path) -> object:
    """The values in a JSON or YAML file, references and comments resolved.

    Raises:
        CheckpointError: the file cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            import yaml

            return _resolve(yaml.safe_load(text))
        # Configurations from Coqui's earlier days hold comments.
        return json.loads(_STRING_OR_COMMENT.sub(lambda match: match[1] or "", text))
    except ImportError:
        raise CheckpointError(f"{path} is YAML, which needs PyYAML: pip install pyyaml") from None
    # yaml.YAMLError is no ValueError, and a deeply nested file ends in a RecursionError.
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {str(error)[:200]}; mend the file, or name another with config"
        ) from None


def _resolve(root: Any) -> Any:
    """Replaces values that are one reference, ``${a.b}``, by what stands at a.b."""

    def lookup(reference: str) -> Any:
        value = root
        for name in reference.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise ValueError(f"${{{reference}}} refers to nothing in this file")
            value = value[name]
        return value

    def walk(value: Any, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise ValueError(f"references or objects are nested more than {_DEEPEST} deep")
        if isinstance(value, Mapping):
            return {name: walk(item, depth + 1) for name, item in value.items()}
        match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        return walk(lookup(match[1]), depth + 1) if match else value

    return walk(root)
