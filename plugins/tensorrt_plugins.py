"""TensorRT plugins of all operators, for ``tensorrt`` 10.16 and 11 and ``tensorrt_rtx`` 1.7.

Call `register` once in each process, before a graph with these operators is parsed or a plan is deserialised. The
plugin classes are created for each TensorRT module, because their base classes are in that module.
"""

from __future__ import annotations

import types
from types import ModuleType
from typing import Any

from wavernn_trt.export.operators import PLUGIN_NAMESPACE, PLUGIN_VERSION, PRECISIONS
from wavernn_trt.plugins.operations import ATTRIBUTES, OPERATIONS
from wavernn_trt.plugins.tensorrt_adapter import PRECISION_FIELD, PluginMethods, field_names, read_fields, reported

_registered: dict[str, tuple[Any, ...]] = {}
"""Creators by name of the module, kept here because the registry does not keep the Python objects alive."""


def register(trt: ModuleType) -> tuple[str, ...]:
    """Registers the operators with a TensorRT module; a second call changes nothing.

    The plugins log their errors to the logger ``wavernn_trt.plugins``, because TensorRT itself may report only that a
    call failed.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``, imported.

    Returns:
        The names of the operators.

    Raises:
        RuntimeError: the registry has other plugins of these names.
    """
    if trt.__name__ not in _registered:
        registry = trt.get_plugin_registry()
        creators = tuple(make_creator(trt, operator) for operator in OPERATIONS)
        for creator in creators:
            if not registry.register_creator(creator, PLUGIN_NAMESPACE):
                raise RuntimeError(
                    f"{trt.__name__} {trt.__version__} did not register the plugin {creator.name} version "
                    f"{PLUGIN_VERSION} in the namespace {PLUGIN_NAMESPACE!r}; has another package registered one?"
                )
        _registered[trt.__name__] = creators
    return tuple(creator.name for creator in _registered[trt.__name__])


def make_creator(trt: ModuleType, operator: str) -> Any:
    """Returns an ``IPluginCreatorV3One`` of an operator, not yet registered."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    attributes = {"__module__": __name__, "tensorrt": trt, "tensorrt_bases": bases}
    plugin = types.new_class(operator, (PluginMethods, *bases), exec_body=lambda body: body.update(attributes))
    creator = types.new_class(f"{operator}Creator", (_CreatorMethods, trt.IPluginCreatorV3One))
    return creator(trt, operator, plugin)


class _CreatorMethods:
    """The methods of a plugin creator; a subclass adds the base class of TensorRT."""

    def __init__(self, trt: Any, operator: str, plugin: Any) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name = operator
        self.plugin_version = PLUGIN_VERSION
        self.plugin_namespace = PLUGIN_NAMESPACE
        # The parser passes only the fields listed here, and warns of each that a node does not have.
        self.field_names = field_names(trt, ATTRIBUTES[operator])
        self.plugin_name = operator
        self._plugin = plugin

    @reported
    def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
        """Creates the plugin of a node from its attributes, or from the fields that a plan stores.

        Raises:
            ValueError: an attribute is missing or wrong.
        """
        del phase  # both phases have the same fields, and a plan also the precision
        values = read_fields(fields)
        index = values.pop(PRECISION_FIELD, None)
        operation = OPERATIONS[self.name].from_attributes(values)
        return self._plugin(operation, None if index is None else PRECISIONS[int(index[0])])
