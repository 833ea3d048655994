"""The TensorRT plugins of all operators, from one source for ``tensorrt`` 10.16 and 11 and ``tensorrt_rtx`` 1.7.

`register` has to run before a graph with such nodes is parsed and before a plan with them is deserialised, once in each
process. The base classes live in TensorRT's module, so the classes here are made for each module.
"""

from __future__ import annotations

import types
from types import ModuleType
from typing import Any

from wavernn_trt.export.operators import PLUGIN_NAMESPACE, PLUGIN_VERSION, PRECISIONS
from wavernn_trt.plugins.operations import ATTRIBUTES, OPERATIONS
from wavernn_trt.plugins.tensorrt_adapter import PRECISION_FIELD, PluginMethods, field_names, read_fields, reported

_registered: dict[str, tuple[Any, ...]] = {}
"""Creators by module: the registry does not keep the Python objects alive."""


def register(trt: ModuleType) -> tuple[str, ...]:
    """Makes the operators known to a TensorRT module; doing it again changes nothing.

    What a plugin refuses goes to the logger ``wavernn_trt.plugins``, because TensorRT's own message says no more than
    that a call failed.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``, imported.

    Returns:
        The operators' names.

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
    """An unregistered ``IPluginCreatorV3One`` of an operator."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime)
    described = {"__module__": __name__, "tensorrt": trt, "tensorrt_bases": bases}
    plugin = types.new_class(operator, (PluginMethods, *bases), exec_body=lambda body: body.update(described))
    creator = types.new_class(f"{operator}Creator", (_CreatorMethods, trt.IPluginCreatorV3One))
    return creator(trt, operator, plugin)


class _CreatorMethods:
    """What a creator does; TensorRT's base class comes in beside it."""

    def __init__(self, trt: Any, operator: str, plugin: Any) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name = operator
        self.plugin_version = PLUGIN_VERSION
        self.plugin_namespace = PLUGIN_NAMESPACE
        # Only what is listed here is handed over by the parser, which warns of each one that a node lacks.
        self.field_names = field_names(trt, ATTRIBUTES[operator])
        self.plugin_name = operator
        self._plugin = plugin

    @reported
    def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
        """Makes the plugin of one node, from its attributes or from what a plan holds of it.

        Raises:
            ValueError: an attribute is missing or wrong.
        """
        del phase  # a plan's fields are the attributes and the precision beside them
        values = read_fields(fields)
        index = values.pop(PRECISION_FIELD, None)
        operation = OPERATIONS[self.name].from_attributes(values)
        return self._plugin(operation, None if index is None else PRECISIONS[int(index[0])])
