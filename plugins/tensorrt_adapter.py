"""Implementation of TensorRT's ``IPluginV3`` for an operation, and its attributes as plugin fields of int32 arrays."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from wavernn_trt.export.operators import PLUGIN_NAMESPACE, PLUGIN_VERSION, PRECISIONS, Precision
from wavernn_trt.plugins.operand_shapes import match_shapes
from wavernn_trt.plugins.operations import BoundKernel, Operation, Sizes

WEIGHT_TYPES: dict[str, Precision] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
"""Precision of each of TensorRT's data types."""
PRECISION_FIELD = "precision"
"""Plugin field of a plan beside the attributes: an index into `wavernn_trt.export.operators.PRECISIONS`."""
_EMPTY = np.zeros(0, np.int32)  # a module variable, since a field points into its array and does not own it
_TYPES = {"float32": "FLOAT", "int32": "INT32"}

log = logging.getLogger("wavernn_trt.plugins")

F = TypeVar("F", bound=Callable[..., Any])


def reported(method: F) -> F:
    """Logs the exceptions of a method: TensorRT turns them into failed calls, and some versions lose the message."""

    @functools.wraps(method)
    def wrapper(self: Any, *arguments: Any) -> Any:
        try:
            return method(self, *arguments)
        except Exception as error:
            log.error("%s in %s: %s", self.plugin_name, method.__name__, error)
            raise

    return wrapper  # type: ignore[return-value]


class PluginMethods:
    """The methods of a plugin; a subclass adds the four base classes of TensorRT.

    When a method raises an exception, TensorRT crashes (``clone``), ignores it (``get_workspace_size``,
    ``get_fields_to_serialize``) or fails with an error (all others). Errors are therefore raised only in the others.
    """

    tensorrt: ClassVar[Any]
    tensorrt_bases: ClassVar[tuple[Any, ...]]

    def __init__(self, operation: Operation, precision: Precision | None, kernel: BoundKernel | None = None) -> None:
        """Creates a plugin.

        Args:
            operation: the operator and its attributes.
            precision: precision of the weights; None until TensorRT passes their type.
            kernel: the kernel of the operation in this precision; None: created when needed.
        """
        for base in self.tensorrt_bases:
            base.__init__(self)
        self.plugin_name = operation.operator
        self.plugin_version = PLUGIN_VERSION
        self.plugin_namespace = PLUGIN_NAMESPACE
        self.operation = operation
        self.precision = precision
        self._inputs, self._outputs = operation.inputs(), operation.outputs()
        self.num_outputs = len(self._outputs)
        self._kernel = kernel
        self._sizes: Sizes = {}

    def get_capability_interface(self, kind: Any) -> Any:
        """Returns this object for each of the three capabilities."""
        return self

    def clone(self) -> Any:
        """Copies the plugin with its precision, kernel and sizes."""
        other = type(self)(self.operation, self.precision, self._kernel)
        other._sizes = self._sizes
        return other

    # Building.

    @reported
    def get_output_data_types(self, input_types: Sequence[Any]) -> list[Any]:
        """Returns the types of the outputs; sets the precision from the type of the weights.

        Raises:
            ValueError: an input has a wrong type.
        """
        self._take_precision(input_types)
        return [getattr(self.tensorrt.DataType, _TYPES[operand.kind]) for operand in self._outputs]

    @reported
    def get_output_shapes(self, inputs: Sequence[Any], shape_inputs: Sequence[Any], builder: Any) -> list[Any]:
        """Returns the shapes of the outputs as expressions of the inputs' sizes.

        Raises:
            ValueError: a constant size is wrong.
        """
        known = [[size.get_constant_value() if size.is_constant() else -1 for size in dims] for dims in inputs]
        match_shapes(self.plugin_name, self._inputs, known, dynamic=True)
        symbols: dict[int | str, Any] = {}
        for operand, dims in zip(self._inputs, inputs, strict=True):
            symbols.update(zip(operand.shape, dims, strict=True))
        return [
            self.tensorrt.DimsExprs(
                [symbols[size] if isinstance(size, str) else builder.constant(size) for size in operand.shape]
            )
            for operand in self._outputs
        ]

    def supports_format_combination(self, position: int, tensors: Sequence[Any], num_inputs: int) -> bool:
        """Whether the tensor at ``position`` is linear and of its type; all weights must have the same type."""
        operands = (*self._inputs, *self._outputs)
        if len(tensors) != len(operands) or num_inputs != len(self._inputs):
            return False
        tensor = tensors[position].desc
        if tensor.format != self.tensorrt.TensorFormat.LINEAR:
            return False
        if operands[position].kind != "weight":
            return bool(tensor.type.name == _TYPES[operands[position].kind])
        weights = [i for i, operand in enumerate(operands[: position + 1]) if operand.kind == "weight"]
        return tensor.type.name in WEIGHT_TYPES and tensor.type == tensors[weights[0]].desc.type

    @reported
    def configure_plugin(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Checks types and shapes.

        Raises:
            ValueError: a type or a shape is wrong.
        """
        self._take_precision([tensor.desc.type for tensor in inputs])
        match_shapes(self.plugin_name, self._inputs, [tensor.desc.dims for tensor in inputs], dynamic=True)
        self._workspace_bytes(inputs)

    def get_valid_tactics(self) -> list[int]:
        """Returns no tactics: there is only the default one."""
        return []

    @reported
    def get_workspace_size(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        """Returns the size of the workspace for the largest shapes."""
        return self._workspace_bytes(inputs)

    # Running.

    def set_tactic(self, tactic: int) -> None:
        """Does nothing: there is only the default tactic."""

    def get_fields_to_serialize(self) -> Any:
        """Returns the attributes and the precision, which a plan stores."""
        values: dict[str, int | list[int]] = dict(self.operation.attributes())
        if self.precision is not None:
            values[PRECISION_FIELD] = PRECISIONS.index(self.precision)
        # An attribute, because the collection points into the arrays and TensorRT reads it after this method returns.
        self._fields = write_fields(self.tensorrt, values)
        return self._fields[0]

    @reported
    def attach_to_context(self, resources: Any) -> Any:
        """Returns a clone for an execution context."""
        return self.clone()

    @reported
    def on_shape_change(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Stores the sizes of the following launches and loads their kernel, which a graph capture does not allow.

        Raises:
            ValueError: a type or a shape is wrong.
            KernelError: there is no compiler, or no kernel for these sizes.
        """
        self._take_precision([tensor.type for tensor in inputs])
        shapes = [tensor.dims for tensor in (*inputs, *outputs)]
        self._sizes = match_shapes(self.plugin_name, (*self._inputs, *self._outputs), shapes)
        self._bound().prepare(self._sizes)

    @reported
    def enqueue(
        self,
        input_desc: Sequence[Any],
        output_desc: Sequence[Any],
        inputs: Sequence[int],
        outputs: Sequence[int],
        workspace: int,
        stream: int,
    ) -> None:
        """Enqueues the kernel on TensorRT's stream, without allocation or synchronisation."""
        if not self._sizes:
            self.on_shape_change(input_desc, output_desc)
        self._bound().launch(self._sizes, (*inputs, *outputs), workspace, stream)

    def _take_precision(self, types: Sequence[Any]) -> None:
        if len(types) != len(self._inputs):
            raise ValueError(f"{self.plugin_name}: found {len(types)} inputs, expected {len(self._inputs)}")
        weights: set[str] = set()
        for operand, found in zip(self._inputs, types, strict=True):
            expected = tuple(WEIGHT_TYPES) if operand.kind == "weight" else (_TYPES[operand.kind],)
            if found.name not in expected:
                raise ValueError(
                    f"{self.plugin_name}: {operand.name} is {found.name}, expected {' or '.join(expected)}"
                )
            if operand.kind == "weight":
                weights.add(found.name)
        if len(weights) > 1:
            mixed = " and ".join(sorted(weights))
            raise ValueError(f"{self.plugin_name}: weights are {mixed}, expected one type for all")
        precision = WEIGHT_TYPES[weights.pop()] if weights else "fp32"  # MaterialisePlugin has no weights
        if precision != self.precision:
            self.precision, self._kernel = precision, None

    def _workspace_bytes(self, inputs: Sequence[Any]) -> int:
        sizes = match_shapes(self.plugin_name, self._inputs, [tensor.max for tensor in inputs])
        return self._bound().workspace_bytes(sizes)

    def _bound(self) -> BoundKernel:
        if self._kernel is None:
            if self.precision is None:
                raise RuntimeError(f"{self.plugin_name}: TensorRT has not passed the type of the weights yet")
            self._kernel = self.operation.bind(self.precision)
        return self._kernel


def field_names(trt: Any, names: Iterable[str]) -> Any:
    """Returns the fields that the parser passes to a creator, without values."""
    return trt.PluginFieldCollection([trt.PluginField(name, _EMPTY, trt.PluginFieldType.INT32) for name in names])


def write_fields(trt: Any, values: Mapping[str, int | Sequence[int]]) -> tuple[Any, list[NDArray[np.int32]]]:
    """Returns values as a collection of fields, and the arrays that it points to, which must outlive it."""
    arrays = [np.array(value, np.int32).reshape(-1) for value in values.values()]
    fields = [
        trt.PluginField(name, array, trt.PluginFieldType.INT32) for name, array in zip(values, arrays, strict=True)
    ]
    return trt.PluginFieldCollection(fields), arrays


def read_fields(fields: Iterable[Any]) -> dict[str, list[int]]:
    """Reads the values of fields; the inverse of `write_fields`.

    Raises:
        ValueError: a field does not hold integers; names the field.
    """
    values = {}
    for field in fields:
        if field.type.name != "INT32":
            raise ValueError(
                f"attribute {field.name} holds {field.type.name}, expected integers; export the model again"
            )
        values[str(field.name)] = [int(value) for value in np.array(field.data, np.int32).reshape(-1)]
    return values
