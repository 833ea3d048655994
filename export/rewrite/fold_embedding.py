"""Pass: folds the embedding, or the column of the previous sample, into the matrix that multiplies it.

The product of an embedding row and a matrix has only as many values as there are classes, so it becomes a Gather from a
precomputed table. A sample that is fed back as a number times several matrices becomes that number times one vector.
For this each product of the step is written as a sum over its sources: the previous sample, the conditioning, and
others. Products of the conditioning become one ``Gemm(conditioning, …)`` each, which can be hoisted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from wavernn_trt.export.arrays import DoubleArray
from wavernn_trt.export.networks import Networks


@dataclass
class LinearForm:
    """A tensor [B, n] as a sum of linear functions of the step's sources."""

    table: DoubleArray | None
    """[classes, n], indexed by the previous label."""
    column: DoubleArray | None
    """[1, n], multiplied by the previous sample's value."""
    conditioning: DoubleArray | None
    """[columns, n], multiplied by the conditioning."""
    bias: DoubleArray
    """[n]."""
    rest: list[tuple[gs.Tensor, DoubleArray]]
    """Other tensors [B, k], each with its matrix [k, n]."""

    @property
    def pure(self) -> bool:
        """Whether it depends on the previous sample and the conditioning only."""
        return not self.rest

    @property
    def mixed(self) -> bool:
        """Whether it depends on the previous sample or the conditioning."""
        return not (self.table is None and self.column is None and self.conditioning is None)

    def times(self, matrix: DoubleArray) -> LinearForm:
        """Returns this tensor @ matrix, for a pure form."""
        table, column, conditioning = (None if part is None else part @ matrix for part in self._parts())
        return LinearForm(table, column, conditioning, self.bias @ matrix, [])

    def columns(self, start: int, stop: int) -> LinearForm:
        """Returns this tensor [:, start:stop], for a pure form."""
        table, column, conditioning = (None if part is None else part[:, start:stop] for part in self._parts())
        return LinearForm(table, column, conditioning, self.bias[start:stop], [])

    def add(self, other: LinearForm) -> LinearForm:
        """Returns the sum of both."""
        table, column, conditioning = (
            b if a is None else a if b is None else a + b for a, b in zip(self._parts(), other._parts(), strict=True)
        )
        return LinearForm(table, column, conditioning, self.bias + other.bias, self.rest + other.rest)

    def _parts(self) -> tuple[DoubleArray | None, DoubleArray | None, DoubleArray | None]:
        return self.table, self.column, self.conditioning


def fold_embedding(networks: Networks) -> Networks:
    """Rewrites every product that depends on the previous sample or the conditioning; see the module's text."""
    step = networks.step.copy()
    forms = _Forms(step)
    for node in [node for node in step.nodes if node.op == "Gemm"]:
        form = forms.of(node.outputs[0])
        if form is not None and form.mixed:
            _emit(step, node, form)
    step.cleanup().toposort()
    return dataclasses.replace(networks, step=step)


class _Forms:
    """Finds the linear form of tensors by following their producers."""

    def __init__(self, step: gs.Graph) -> None:
        tensors = step.tensors()
        self.previous, self.conditioning = tensors["previous"], tensors["conditioning"]
        self.known: dict[str, LinearForm | None] = {}

    def of(self, tensor: gs.Tensor) -> LinearForm | None:
        """Returns the form; ``None`` where the tensor is not linear in a known source."""
        if tensor.name not in self.known:
            self.known[tensor.name] = self._find(tensor)
        return self.known[tensor.name]

    def _find(self, tensor: gs.Tensor) -> LinearForm | None:
        if tensor is self.conditioning:
            width = tensor.shape[1]
            return LinearForm(None, None, np.eye(width), np.zeros(width), [])
        if not tensor.inputs:
            return None
        node = tensor.inputs[0]
        if node.op == "Gather" and node.inputs[1] is self.previous and isinstance(node.inputs[0], gs.Constant):
            table = node.inputs[0].values.astype(np.float64)
            return LinearForm(table, None, None, np.zeros(table.shape[1]), [])
        if node.op == "Unsqueeze" and node.inputs[0] is self.previous:
            return LinearForm(None, np.ones((1, 1)), None, np.zeros(1), [])
        if node.op in ("Split", "Slice"):
            return self._columns(tensor, node)
        if node.op == "Gemm":
            return self._gemm(node)
        return None

    def _columns(self, tensor: gs.Tensor, node: gs.Node) -> LinearForm | None:
        whole = self.of(node.inputs[0])
        if whole is None or not whole.pure:
            return None
        if node.op == "Split":
            if node.attrs.get("axis", 0) != 1:
                return None
            edges = np.concatenate([[0], np.cumsum(node.inputs[1].values)])
            index = node.outputs.index(tensor)
            return whole.columns(int(edges[index]), int(edges[index + 1]))
        starts, stops, axes = (constant.values for constant in node.inputs[1:4])
        steps = node.inputs[4].values if len(node.inputs) > 4 else np.ones(1)
        if list(axes) != [1] or list(steps) != [1]:
            return None
        return whole.columns(int(starts[0]), int(min(stops[0], whole.bias.size)))

    def _gemm(self, node: gs.Node) -> LinearForm | None:
        if not isinstance(node.inputs[1], gs.Constant):
            return None
        weight = node.inputs[1].values.astype(np.float64)
        weight = weight.T if node.attrs.get("transB", 0) else weight  # [k, n]
        source = node.inputs[0]
        producer = source.inputs[0] if source.inputs else None
        concatenated = producer is not None and producer.op == "Concat" and producer.attrs["axis"] == 1
        parts = list(producer.inputs) if concatenated else [source]  # type: ignore[union-attr]
        bias = node.inputs[2].values.astype(np.float64) if len(node.inputs) > 2 else np.zeros(weight.shape[1])
        form = LinearForm(None, None, None, bias, [])
        start = 0
        for part in parts:
            known = self.of(part)
            width = known.bias.size if known is not None else part.shape[1]
            block = weight[start : start + width]
            if known is not None and known.pure:
                form = form.add(known.times(block))
            else:
                form.rest.append((part, block))
            start += width
        if start != weight.shape[0]:
            raise ValueError(f"node {node.name}: inputs {start} wide for a weight of {weight.shape[0]}")
        return form


def _emit(step: gs.Graph, node: gs.Node, form: LinearForm) -> None:
    """Replaces a Gemm by the sum."""
    tensors = step.tensors()
    output = node.outputs[0]
    node.outputs.clear()
    name, terms = output.name, []
    if form.table is not None:
        table = gs.Constant(f"{name}.table", form.table.astype(np.float32))
        terms.append(
            step.layer(
                op="Gather", inputs=[table, tensors["previous"]], outputs=[f"{name}.gathered"], attrs={"axis": 0}
            )[0]
        )
    if form.column is not None:
        column = gs.Constant(f"{name}.column", form.column.astype(np.float32))
        value = next(n for n in tensors["previous"].outputs if n.op == "Unsqueeze").outputs[0]
        terms.append(step.layer(op="Mul", inputs=[value, column], outputs=[f"{name}.scaled"])[0])
    for index, (tensor, matrix) in enumerate(form.rest):
        weight = gs.Constant(f"{name}.weight_{index}", np.ascontiguousarray(matrix.T, np.float32))
        inputs = [tensor, weight]
        if form.conditioning is None and index == 0:
            inputs.append(gs.Constant(f"{name}.bias", form.bias.astype(np.float32)))
        terms.append(step.layer(op="Gemm", inputs=inputs, outputs=[f"{name}.product_{index}"], attrs={"transB": 1})[0])
    bias = gs.Constant(f"{name}.bias", form.bias.astype(np.float32))
    if form.conditioning is not None:
        matrix = gs.Constant(f"{name}.conditioning_weight", form.conditioning.astype(np.float32))
        inputs = [tensors["conditioning"], matrix, bias]
        terms.append(step.layer(op="Gemm", inputs=inputs, outputs=[f"{name}.conditioned"])[0])
    elif not form.rest:
        terms.append(bias)
    for index, term in enumerate(terms[1:-1], 1):
        terms[index] = step.layer(op="Add", inputs=[terms[index - 1], term], outputs=[f"{name}.sum_{index}"])[0]
        terms[index].dtype = output.dtype
    if len(terms) == 1:
        terms[0].inputs[0].outputs = [output]
    else:
        last = terms[-2] if len(terms) > 2 else terms[0]
        step.nodes.append(gs.Node("Add", f"{name}.add", inputs=[last, terms[-1]], outputs=[output]))
    for term in terms:
        if isinstance(term, gs.Variable) and term.dtype is None:
            term.dtype = output.dtype
