"""All kernels that decode a chunk, by name."""

from __future__ import annotations

from wavernn_trt.plugins.form import Form
from wavernn_trt.plugins.resident_form import ResidentForm
from wavernn_trt.plugins.sequence_form import SequenceForm
from wavernn_trt.plugins.stepped_form import SteppedForm

FORMS: tuple[Form, ...] = (SequenceForm(), ResidentForm(), SteppedForm())
"""All ways to decode a chunk."""
KERNELS: tuple[str, ...] = tuple(name for form in FORMS for name in form.kernels)
"""What a `wavernn_trt.plugins.form.Choice` may name."""


def form_of(kernel: str) -> Form:
    """The form that has a kernel.

    Raises:
        ValueError: none has.
    """
    for form in FORMS:
        if kernel in form.kernels:
            return form
    raise ValueError(f"kernel: found {kernel!r}, expected one of {', '.join(KERNELS)}")
