"""Names the Python classes that a pickle would import, without loading it, and the way out for each kind."""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterable
from typing import IO

from wavernn_trt.export.checkpoints.pickled_numpy import STOOD_FOR

RESAVE = "save it again with torch.save(model.state_dict(), path), where the training code is installed"

# What torch.load(weights_only=True) reads by itself.
_TENSORS = re.compile(
    r"torch\.(?:(?!ScriptObject)\w+|_utils\._rebuild\w+|_tensor\._rebuild\w+|nn\.parameter\.Parameter|serialization\._get_layout"
    r"|storage\.\w+)|collections\.(?:OrderedDict|Counter)|_codecs\.encode|builtins\.(?:bytearray|set|complex)"
)
_COMMANDS = re.compile(
    r"(?:os|posix|nt|sys|subprocess|pty|runpy|importlib|shutil|socket|webbrowser|ctypes|code|commands|platform)\..*"
    r"|builtins\.(?:eval|exec|compile|__import__|open|input|breakpoint)"
)
_MOST_PICKLES = 4
"""The format from before torch 1.6 writes three short pickles before the object's own."""
_SHOWN = 6


def named_classes(file: IO[bytes]) -> tuple[str, ...]:
    """The classes and functions besides tensors that a pickle names, in order, up to where it is damaged.

    Args:
        file: at the start of a pickle; up to four that follow each other are looked through.
    """
    found: dict[str, None] = {}
    memo: dict[int, str] = {}
    for _ in range(_MOST_PICKLES):
        texts = ["", ""]
        memo.clear()
        try:
            for operation, argument, _position in pickletools.genops(file):
                if operation.name == "GLOBAL" and isinstance(argument, str):
                    found[argument.replace(" ", ".")] = None
                elif operation.name == "STACK_GLOBAL":
                    found[".".join(texts)] = None
                elif operation.name in ("BINGET", "LONG_BINGET") and argument in memo:
                    texts = [texts[1], memo[argument]]
                elif operation.name == "MEMOIZE":
                    memo[len(memo)] = texts[1]
                elif isinstance(argument, str):
                    texts = [texts[1], argument]
        except Exception:  # a damaged pickle ends in almost any error
            break
    renamed = (re.sub(r"^__builtin__\.", "builtins.", name) for name in found)
    return tuple(name for name in renamed if not _TENSORS.fullmatch(name) and name not in STOOD_FOR)


def refuse_classes(classes: Iterable[str]) -> str:
    """The reason why a file with these classes is not loaded, and the way out."""
    classes = tuple(classes)
    shown = ", ".join(_printable(name) for name in classes[:_SHOWN])
    shown += f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    shown = f" ({shown})" if shown else ""
    nothing = "Nothing of it was run. Expected weights only; "
    commands = [_printable(name) for name in classes if _COMMANDS.fullmatch(name)]
    if commands:
        return (
            f"found a pickle that would run {', '.join(commands[:_SHOWN])} when it is loaded, which no training "
            f"stores. {nothing}do not load this file anywhere, get the checkpoint from a source that you trust"
        )
    if "torch.ScriptObject" in classes:
        return (
            f"found packed objects of TorchScript{shown}, as quantised models hold in place of weights. "
            f"{nothing}give the checkpoint from before the quantisation (wavernn-trt quantize rounds weights itself)"
        )
    if any(name.startswith("torch.nn.modules.") for name in classes):
        return (
            f"found a whole pickled model{shown}, which needs its training code and would run it when it is loaded. "
            f"{nothing}{RESAVE}, for a file that you trust: "
            "python -c \"import torch; m = torch.load('FILE', map_location='cpu', weights_only=False); "
            "torch.save(m.state_dict(), 'weights.pt')\""
        )
    return (
        f"found pickled Python objects besides tensors{shown}, which would run code when they are loaded. "
        f"{nothing}{RESAVE}, or, for a file that you trust, take its weights out there (model: the entry that holds "
        "them): python -c \"import torch; c = torch.load('FILE', map_location='cpu', weights_only=False); "
        "torch.save({'model': c['model']}, 'weights.pt')\""
    )


def _printable(name: str) -> str:
    return re.sub(r"[^\w.<>]", "?", name)[:60]
