"""A plan's record is read from JSON as it was written, and invalid values are refused."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavernn_trt.engines.plan_record import PlanRecord, clean_name, read_record, write_record
from wavernn_trt.export.config import ConfigError

plans = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cache_plans.py"))))
DECODER: PlanRecord = plans.record_of(b"plan", "a" * 64)
CONDITIONER: PlanRecord = plans.record_of(
    b"plan", "b" * 64, role="conditioner", form=None, steps=None, window=None, frames=(2, 512, 4096), plugins=()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("record", [DECODER, CONDITIONER], ids=["decoder", "conditioner"])
def test_a_record_comes_back_as_it_was(record: PlanRecord, tmp_path: Path) -> None:
    write_record(tmp_path / "plan.json", record)
    assert read_record(tmp_path / "plan.json") == record


def changed(**values: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(DECODER.to_json())), **values}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in changed().items() if key != name}


BINDING = {"name": "x", "kind": "input", "dtype": "float32", "shape": [-1, 3], "profile": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "found None, expected an object"),
        (without("plan_sha256"), "the field 'plan_sha256' is missing"),
        (changed(colour="red"), "unknown field 'colour'"),
        (changed(schema_version=2, colour="red"), "schema version 2"),
        (changed(schema_version=True), "schema_version: found True, expected an integer"),
        (changed(role="teacher"), "role: found 'teacher', expected one of"),
        (changed(model="../../etc/passwd"), "expected a name without path separators"),
        (changed(model=".."), "expected a name without path separators"),
        (changed(targets=[]), "targets"),
        (changed(targets=["\x1b[2J"]), "printable"),
        (changed(layers={"\x1b[2J": 1}), "printable"),
        (changed(batch=[8, 1, 64]), "batch: found (8, 1, 64), expected smallest, optimal and largest"),
        (changed(steps=0), "steps: found 0, expected at least 1"),
        (changed(steps=None), "steps: found None, expected a value for a decoder"),
        (changed(frames=[1, 1, 1]), "frames: found (1, 1, 1), expected no value for a decoder"),
        (changed(plan_bytes=0), "plan_bytes"),
        (changed(build_seconds=float("nan")), "build_seconds: found nan, expected at least 0, and finite"),
        (changed(build_seconds=10**400), "build_seconds: found 1000"),
        (changed(peak_bytes=-1), "peak_bytes"),
        (changed(built_at="yesterday"), "built_at: found 'yesterday', expected an ISO 8601 time"),
        (changed(built_at="2026-05-04T03:02:01"), "with its time zone"),
        (changed(key="A" * 64), "key: found"),
        (changed(bindings=[{**BINDING, "kind": "weight"}]), "expected one of input, output"),
        (changed(bindings=[{**BINDING, "shape": [-2]}]), "bindings.x.shape"),
        (changed(bindings=[{**BINDING, "profile": [[1, 3], [2, 3], [4, 4]]}]), "bindings.x.profile: found (4, 4)"),
        (changed(bindings=[{**BINDING, "profile": [[1], [2], [4]]}]), "bindings.x.profile"),
        (changed(plugins=[{"name": "p", "version": "1", "namespace": "", "count": 0}]), "plugins.p.count"),
    ],
)
def test_an_invalid_record_is_refused(values: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PlanRecord.from_json(values)
    assert message in str(caught.value)


@given(name=st.sampled_from(sorted(DECODER.to_json())), value=JSON)
def test_any_value_in_any_field_is_accepted_unchanged_or_refused(name: str, value: object) -> None:
    values, refused = changed(**{name: value}), ""
    try:
        record = PlanRecord.from_json(values)
    except ConfigError as error:
        refused = str(error)
    else:
        assert PlanRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
    assert refused.isprintable()
    assert len(refused) < 2000


@given(st.data())
def test_a_damaged_record_is_refused_or_a_complete_one(data: st.DataObject) -> None:
    content = json.dumps(DECODER.to_json()).encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    damaged = content[:start] + data.draw(st.binary(max_size=20)) + content[end:]
    try:
        record = PlanRecord.from_json(json.loads(damaged))
    except ValueError:
        return
    assert record.to_json().keys() == DECODER.to_json().keys()


@given(JSON | st.binary())
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ConfigError):
        read_record(path)


@given(st.text())
def test_a_clean_name_is_a_files_name(text: str) -> None:
    name = clean_name(text)
    assert name == clean_name(name)
    assert name[0] not in ".-"
    assert name.isprintable()
    assert not set(name) & set("/\\:\0 ")
    assert 1 <= len(name.encode()) <= 180
