"""Settings written as Python (``hparams.py``), read as literals: nothing of the file is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_LARGEST = 1e12
"""Results beyond this are not settings, and powers of Python's integers could take any memory."""


class _NotLiteral(ValueError):
    """An expression that is not a literal, nor arithmetic on settings read before."""


def read_python_settings(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads the assignments of a module.

    Read are ``name = value`` at the top level and inside a class, the keyword arguments of a call that is assigned
    (``hparams = HParams(name=value, …)``) and ``hparams.name = value``. A value is a literal, or a sum, difference,
    product or quotient of literals and of settings read before.

    Args:
        text: the source of the module.

    Returns:
        The settings, and the names whose values are computed in a way that is not read.

    Raises:
        SyntaxError: the text is not Python.
    """
    values: dict[str, Any] = {}
    computed: list[str] = []
    _read_block(ast.parse(text).body, values, computed)
    return values, tuple(name for name in dict.fromkeys(computed) if name not in values)


def _read_block(statements: list[ast.stmt], values: dict[str, Any], computed: list[str]) -> None:
    for statement in statements:
        if isinstance(statement, ast.ClassDef):
            _read_block(statement.body, values, computed)
            continue
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        name = _name(target)
        if name is None:
            continue
        if isinstance(value, ast.Call) and value.keywords:
            for keyword in value.keywords:
                if keyword.arg is not None:
                    _read_value(keyword.arg, keyword.value, values, computed)
        else:
            _read_value(name, value, values, computed)


def _name(target: ast.expr) -> str | None:
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        return target.attr
    return None


def _read_value(name: str, expression: ast.expr, values: dict[str, Any], computed: list[str]) -> None:
    try:
        values[name] = _evaluate(expression, values)
    except (_NotLiteral, TypeError, ZeroDivisionError, OverflowError, RecursionError):
        values.pop(name, None)
        computed.append(name)


def _evaluate(expression: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, bool | int | float | str | None):
        return expression.value
    if isinstance(expression, ast.Tuple | ast.List):
        return [_evaluate(item, values) for item in expression.elts]
    if isinstance(expression, ast.Dict):
        return {
            str(_evaluate(key, values)): _evaluate(item, values)
            for key, item in zip(expression.keys, expression.values, strict=True)
            if key is not None
        }
    name = _name(expression)
    if name is not None and name in values:
        return values[name]
    if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
        return -_number(_evaluate(expression.operand, values))
    if isinstance(expression, ast.BinOp) and type(expression.op) in _OPERATORS:
        left, right = (_number(_evaluate(side, values)) for side in (expression.left, expression.right))
        return _number(_OPERATORS[type(expression.op)](left, right))
    raise _NotLiteral(ast.dump(expression)[:80])


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise _NotLiteral(f"{type(value).__name__} in arithmetic")
    return value
