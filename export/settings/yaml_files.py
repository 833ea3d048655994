"""Reads settings in YAML files, with OmegaConf's references and Lightning's tuples."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_DEEPEST = 20
_MOST_VALUES = 100_000
"""Limit of values, since a kilobyte of aliases could expand to any number."""


def read_yaml_settings(text: str) -> Any:
    """Parses YAML without running code: of Python's tags only tuples are read.

    Values that are one reference, ``${a.b}``, are replaced by the value at a.b.

    Raises:
        ImportError: PyYAML is missing.
        ValueError: a key occurs twice in a mapping, a reference has no target, or there are too many values.
        yaml.YAMLError: the text is not YAML.
    """
    import yaml

    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("tag:yaml.org,2002:python/tuple", yaml.SafeLoader.construct_yaml_seq)
    _refuse_repeated_keys(yaml.compose(text, Loader=loader), set())
    return _resolve(yaml.load(text, Loader=loader))  # a SafeLoader


def walk(value: Any, change: Callable[[Any], Any]) -> Any:
    """Returns the same mappings and lists with each value changed, names as text and tuples as lists.

    Raises:
        ValueError: objects are nested too deep, or there are too many values.
    """
    left = _MOST_VALUES

    def visit(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > _DEEPEST:
            raise ValueError(f"references or objects are nested more than {_DEEPEST} deep")
        if left < 0:
            raise ValueError(f"found more than {_MOST_VALUES} values, expected settings")
        if isinstance(value, Mapping):
            return {str(name): visit(item, depth + 1) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [visit(item, depth + 1) for item in value]
        changed = change(value)
        return changed if changed is value else visit(changed, depth + 1)

    return visit(value, 0)


def _refuse_repeated_keys(node: Any, seen: set[int]) -> None:
    if node is None or id(node) in seen or not isinstance(node.value, list):
        return
    seen.add(id(node))
    values: dict[str, Any] = {}
    for item in node.value:
        key, value = item if isinstance(item, tuple) else (None, item)
        _refuse_repeated_keys(value, seen)
        name = None if key is None or isinstance(key.value, list) else key.value
        if name is not None and values.setdefault(name, value.value) != value.value:
            raise ValueError(f"{name} is stated twice, with two values")


def _resolve(root: Any) -> Any:
    def lookup(value: Any) -> Any:
        match = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
        if match is None:
            return value
        found = root
        for name in match[1].split("."):
            if not isinstance(found, Mapping) or name not in found:
                raise ValueError(f"${{{match[1]}}} refers to nothing in this file")
            found = found[name]
        return found

    return walk(root, lookup)
