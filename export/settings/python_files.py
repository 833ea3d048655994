"""Reads settings in Python files (``hparams.py``) as literals, without running them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wavernn_trt.export.settings.table import setting_of

_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"int": int, "float": float}
_LARGEST = 1e12
"""Larger results are not settings."""
_LARGEST_EXPONENT = 32
"""Limit of exponents, since powers of integers could take any memory."""
_CHANGES = frozenset({"update", "parse", "add_hparam", "set_hparam", "add_argument"})
"""Methods that set settings."""


class _NotLiteral(ValueError):
    """An expression is neither a literal nor arithmetic on settings read before."""


def read_python_settings(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Reads the assignments of a module.

    Read are ``name = value`` at the top level and inside a class, the keyword arguments of a call that is assigned
    (``hparams = HParams(name=value, …)``) and ``hparams.name = value``. A value is a literal, or arithmetic, ``int()``
    and ``float()`` on literals and on settings read before. Not read, and returned as computed, are names that are
    assigned in an ``if``, a loop or a function, imported, changed by ``+=`` and its kin, or assigned different values
    in two classes or calls.

    Args:
        text: the source of the module.

    Returns:
        The settings, and the names with other computed values; these include ``from x import *`` as written.

    Raises:
        SyntaxError: the text is not Python.
    """
    reader = _Reader()
    reader.read(ast.parse(text).body)
    return reader.values, tuple(name for name in dict.fromkeys(reader.computed) if name not in reader.values)


class _Reader:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.computed: list[str] = []
        self._imported: set[str] = set()
        self._ambiguous: set[str] = set()

    def read(self, statements: list[ast.stmt]) -> None:
        """Reads the statements of a module or a class."""
        for statement in statements:
            if isinstance(statement, ast.ClassDef):
                inner = self._apart()
                inner.read(statement.body)
                self._merge(inner)
            elif isinstance(statement, ast.Assign):
                for target in statement.targets:
                    self._assign(target, statement.value)
            elif isinstance(statement, ast.AnnAssign):
                if statement.value is not None:
                    self._assign(statement.target, statement.value)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                self._import(statement)
            elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                self.computed += _assigned([statement])  # names of its own, which leave the module's alone
            elif not _is_main(statement):
                for name in _assigned([statement]):
                    self._leave_out(name)

    def _apart(self) -> _Reader:
        """Returns a reader for the names in a class or a call."""
        inner = _Reader()
        inner.values, inner._imported = dict(self.values), self._imported
        return inner

    def _merge(self, inner: _Reader) -> None:
        """Adds the names of a class or a call, except those that have another value outside."""
        for name in inner.computed:
            self._leave_out(name)
        for name, value in inner.values.items():
            if name in self.values and self.values[name] != value:
                self._ambiguous.add(name)
            if name in self._ambiguous:
                self._leave_out(name)
            else:
                self.values[name] = value

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            parts = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            if len(parts) == len(target.elts) and not any(isinstance(each, ast.Starred) for each in target.elts):
                for each, part in zip(target.elts, parts, strict=True):
                    self._assign(each, part)
            else:
                for each_name in _names(target):
                    self._leave_out(each_name)
            return
        name = _name(target)
        if name is None:
            return
        if isinstance(value, ast.Call) and value.keywords and setting_of(name) is None:
            inner = self._apart()
            for keyword in value.keywords:
                if keyword.arg is not None:
                    inner._read_value(keyword.arg, keyword.value)
            self._merge(inner)
        else:
            self._read_value(name, value)

    def _read_value(self, name: str, expression: ast.expr) -> None:
        try:
            self.values[name] = self._evaluate(expression)
        except (_NotLiteral, ValueError, TypeError, ZeroDivisionError, OverflowError, RecursionError):
            self._leave_out(name)

    def _leave_out(self, name: str) -> None:
        self.values.pop(name, None)
        self.computed.append(name)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            if alias.name == "*" and isinstance(statement, ast.ImportFrom):
                self.computed.append(f"from {'.' * statement.level}{statement.module or ''} import *")
            else:
                name = alias.asname or alias.name.partition(".")[0]
                self._imported.add(name)
                self._leave_out(name)

    def _evaluate(self, expression: ast.expr) -> Any:
        if isinstance(expression, ast.Constant) and isinstance(expression.value, bool | int | float | str | None):
            return expression.value
        if isinstance(expression, ast.Tuple | ast.List):
            return [self._evaluate(item) for item in expression.elts]
        if isinstance(expression, ast.Dict):
            return self._evaluate_dict(expression)
        name = None if _is_of(expression, self._imported) else _name(expression)
        if name is not None and name in self.values:
            return self.values[name]
        if isinstance(expression, ast.UnaryOp) and isinstance(expression.op, ast.USub):
            return -_number(self._evaluate(expression.operand))
        if isinstance(expression, ast.BinOp) and type(expression.op) in _OPERATORS:
            left, right = (_number(self._evaluate(side)) for side in (expression.left, expression.right))
            if isinstance(expression.op, ast.Pow) and abs(right) > _LARGEST_EXPONENT:
                raise _NotLiteral("a power")
            return _number(_OPERATORS[type(expression.op)](left, right))
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name):
            convert = _CONVERSIONS.get(expression.func.id)
            if convert is not None and len(expression.args) == 1 and not expression.keywords:
                return convert(_number(self._evaluate(expression.args[0])))
        raise _NotLiteral(type(expression).__name__)

    def _evaluate_dict(self, expression: ast.Dict) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, item in zip(expression.keys, expression.values, strict=True):
            value = self._evaluate(item)
            if key is not None:
                values[str(self._evaluate(key))] = value
            elif isinstance(value, Mapping):  # **other
                values |= value
            else:
                raise _NotLiteral("** of no dictionary")
        return values


def _name(target: ast.expr) -> str | None:
    """Returns the name in ``name``, ``object.name`` or ``object["name"]``."""
    if isinstance(target, ast.Name):
        return target.id
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        return target.attr
    if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
        key = target.slice
        return key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
    return None


def _names(target: ast.expr) -> Iterator[str]:
    for each in target.elts if isinstance(target, ast.Tuple | ast.List) else (target,):
        name = _name(each.value if isinstance(each, ast.Starred) else each)
        if name is not None:
            yield name


def _assigned(statements: list[ast.stmt]) -> list[str]:
    """Returns names that statements may assign: targets, keywords of assigned or returned calls, and `_CHANGES`."""
    found: list[str] = []
    for node in (each for statement in statements for each in ast.walk(statement)):
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            found += [name for target in node.targets for name in _names(target)]
            value = node.value
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            found += _names(node.target)
            value = node.value
        elif isinstance(node, ast.Delete):
            found += [name for target in node.targets for name in _names(target)]
        elif isinstance(node, ast.Return):
            value = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGES:
            value = node
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                found.append(first.value.lstrip("-").partition("=")[0])  # parse("name=1"), add_argument("--name")
        if isinstance(value, ast.Call):
            found += [keyword.arg for keyword in value.keywords if keyword.arg is not None]
    return found


def _is_main(statement: ast.stmt) -> bool:
    """Whether a statement is ``if __name__ == "__main__"``, which has no effect on a module that is imported."""
    if not isinstance(statement, ast.If) or not isinstance(statement.test, ast.Compare):
        return False
    return isinstance(statement.test.left, ast.Name) and statement.test.left.id == "__name__"


def _is_of(expression: ast.expr, names: set[str]) -> bool:
    """Whether an expression is a member of an object with one of these names."""
    if not isinstance(expression, ast.Attribute | ast.Subscript) or not isinstance(expression.value, ast.Name):
        return False
    return expression.value.id in names


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise _NotLiteral(f"{type(value).__name__} in arithmetic")
    return value
