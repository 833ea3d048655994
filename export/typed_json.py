"""Converts JSON values to dataclasses with msgspec; errors name the field, the value and the expected type."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from wavernn_trt.export.config import ConfigError, refused

T = TypeVar("T")

_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
"""One step of a path such as ``$.bindings[0].shape``; msgspec writes ``[...]`` for the value of any key."""
_NAMES = {
    "object": "an object",
    "array": "a list",
    "str": "a text",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
}
"""Display names of msgspec's types."""


def from_json(kind: type[T], values: object, where: str) -> T:
    """Returns a dataclass from JSON values; types must match its annotations, integers are accepted as floats.

    Args:
        kind: the dataclass.
        values: the JSON object.
        where: the object's name in error messages.

    Raises:
        ConfigError: an unknown or missing field, or a value of another type.
        ValueError: a value that the dataclass refuses.
    """
    try:
        made = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        own = error.__cause__  # of a dataclass's own check
        refusal = own if isinstance(own, ValueError) else _explained(error, kind, values, where)
    except UnicodeEncodeError as error:
        refusal = ConfigError(f"{where}: found the text {error.object!r:.60}, expected Unicode")
    else:
        _refuse_unknown_fields(made, values, where)
        return made
    raise refusal  # not above: a dataclass's own error would have msgspec's, whose cause it is, as its context


def _refuse_unknown_fields(made: object, values: Any, where: str) -> None:
    """Refuses fields that the dataclass does not have, which msgspec ignores."""
    if dataclasses.is_dataclass(made):
        names = [field.name for field in dataclasses.fields(made)]
        for name, value in values.items():
            if name not in names:
                raise ConfigError(f"{where}: unknown field {name!r:.60}; the fields are {', '.join(names)}")
            _refuse_unknown_fields(getattr(made, name), value, f"{where}.{name}")
    elif isinstance(made, tuple):
        for index, (item, value) in enumerate(zip(made, values, strict=True)):
            _refuse_unknown_fields(item, value, f"{where}[{index}]")
    elif isinstance(made, Mapping):
        for name, item in made.items():
            _refuse_unknown_fields(item, values[name], f"{where}[{name!r:.60}]")


def _explained(error: msgspec.ValidationError, kind: Any, values: Any, where: str) -> ConfigError:
    what, _, path = str(error).partition(" - at `")
    if path.startswith("key` in `"):
        return ConfigError(f"{where}{path.partition('$')[2].rstrip('`')}: a key is not a text")
    hint: Any = kind
    for field, index in _STEP.findall(path):
        if get_origin(hint) in (Union, types.UnionType):
            hint = next(one for one in get_args(hint) if one is not type(None))
        if field:
            hint, values, where = typing.get_type_hints(hint)[field], values[field], f"{where}.{field}"
        elif index == "...":
            hint = get_args(hint)[1]
            key = next((key for key, value in values.items() if not _fits(value, hint)), None)
            values, where = values[key], f"{where}[{key!r:.60}]"
        else:
            kinds = get_args(hint)
            hint = kinds[0] if kinds[-1] is Ellipsis else kinds[int(index)]
            values, where = values[int(index)], f"{where}[{index}]"
    if (missing := re.search(r"missing required field `(\w+)`", what)) is not None:
        return ConfigError(f"{where}: the field {missing[1]!r} is missing")
    expected = re.sub(r"^Expected |, got .*$", "", what)
    expected = re.sub("`(.*?)`", lambda types: " or ".join(_NAMES.get(t, t) for t in types[1].split(" | ")), expected)
    if get_origin(hint) is Literal:
        expected = f"one of {', '.join(map(str, get_args(hint)))}"
    return refused(where, values, expected)


def _fits(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True
