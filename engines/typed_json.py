"""JSON values as frozen dataclasses, each value checked against its field's annotation."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


class TypedJSONError(ValueError):
    """A value that a field cannot have: names the field, what was found and what was expected."""


def from_json(kind: type[T], values: object, where: str) -> T:
    """Reads a dataclass from JSON values.

    Annotations may be ``str``, ``int``, ``float``, ``bool``, ``Literal``, other dataclasses, and tuples, string-keyed
    dicts and unions with ``None`` of these.

    Args:
        kind: the dataclass.
        values: the JSON object.
        where: how to call the object in an error message.

    Raises:
        TypedJSONError: a field is unknown or missing, or has a value of another type.
        ValueError: whatever the dataclass itself refuses.
    """
    if not isinstance(values, dict):
        raise _wrong(where, values, "an object")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(fields)):
        raise TypedJSONError(f"{where}: unknown field {unknown[0]!r}; the fields are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise TypedJSONError(f"{where}: the field {name!r} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (wanted,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _value(wanted, value, where)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(where, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        return {name: _value(arguments[1], item, f"{where}[{name!r}]") for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast("type[Any]", hint), value, where)
    return _scalar(hint, value, where)


def _tuple(arguments: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, value, "a list")
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    elif len(arguments) != len(value):
        raise _wrong(where, value, f"a list of {len(arguments)}")
    return tuple(
        _value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _scalar(hint: Any, value: object, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        # An integer beyond any float is no number of seconds either.
        if not number or not (-math.inf < value < math.inf) or abs(value) > 1e300:  # type: ignore[operator,arg-type]
            raise _wrong(where, value, "a finite number")
        return float(value)  # type: ignore[arg-type]
    names = {str: "a text", int: "an integer", bool: "true or false"}
    if not isinstance(value, hint) or (hint is int and not number):
        raise _wrong(where, value, names[hint])
    return value


def _wrong(where: str, value: object, expected: str) -> TypedJSONError:
    found = repr(value)
    return TypedJSONError(f"{where}: found {found if len(found) <= 60 else found[:57] + '...'}, expected {expected}")
