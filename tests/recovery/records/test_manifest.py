"""The manifest: there and back, damaged, and from the future."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state.errors import StateLostError
from bytewax_redis_state.keys import FlowKeys
from bytewax_redis_state.recovery.records.manifest import FORMAT, Manifest, StepEntry

KEYS = FlowKeys("t", "flow")
names = st.text(max_size=8)
numbers = st.integers(0, 2**53)
manifests = st.builds(
    Manifest,
    incarnation=names,
    generation=numbers,
    start=names,
    partitions=st.integers(0, 2**16),
    resume_epoch=numbers,
    processes=st.lists(names, max_size=3).map(tuple),
    shards=st.integers(1, 4096),
    steps=st.dictionaries(names, st.builds(StepEntry, names, names), max_size=3),
    parts=st.dictionaries(names, st.lists(names, max_size=3).map(tuple), max_size=3),
    versions=st.dictionaries(names, names, max_size=3),
    retention=st.dictionaries(names, numbers, max_size=3),
    downtime=numbers,
    allowance=numbers,
)


def fields(manifest: Manifest) -> dict[bytes, bytes]:
    own = {
        "incarnation": manifest.incarnation,
        "generation": str(manifest.token),
        "time": str(manifest.time),
    }
    text = own | manifest.to_fields()
    return {key.encode(): value.encode("utf-8", "surrogatepass") for key, value in text.items()}


@given(manifests)
def test_a_manifest_comes_back_whole(manifest):
    assert Manifest.from_fields(KEYS, fields(manifest)) == manifest


def test_nothing_is_no_manifest():
    assert Manifest.from_fields(KEYS, {}) is None


@pytest.mark.parametrize("name", sorted(fields(Manifest("life"))))
def test_a_missing_field_is_damage(name):
    """Rule 10: absence is an error."""
    left = fields(Manifest("life"))
    del left[name]
    said = f"the field {name.decode()!r} of 't:.flow.:manifest' is missing"
    with pytest.raises(StateLostError, match=said) as caught:
        Manifest.from_fields(KEYS, left)
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("name", ["generation", "shards", "steps", "parts", "processes", "format"])
def test_a_field_that_can_not_be_read_is_damage(name):
    broken = fields(Manifest("life")) | {name.encode(): b"\xff{"}
    with pytest.raises(StateLostError, match=f"the field '{name}' of 't:.flow.:manifest' is"):
        Manifest.from_fields(KEYS, broken)


def test_a_newer_format_may_have_changed_everything_else():
    newer = Manifest.from_fields(
        KEYS,
        {b"format": str(FORMAT + 1).encode(), b"incarnation": b"life", b"strange": b"\xc3\xa9"},
    )
    assert newer.format == FORMAT + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"shards", b"0"),
        (b"shards", b"1000000000"),
        (b"partitions", b"1000000000"),
        (b"generation", b"-1"),
        (b"steps", b"[]"),
        (b"steps", b'{"sum": "ab"}'),
        (b"steps", b'{"sum": [1, 2]}'),
        (b"steps", b'{"\\ud800": ["a", "b"]}'),
        (b"steps", b"[" * 100_000),
        (b"processes", b'"abc"'),
        (b"parts", b'{"in": {"a": 1}}'),
        (b"retention", b'{"sum": "soon"}'),
    ],
)
def test_a_field_of_something_else_is_named_and_takes_no_memory(field, value):
    with pytest.raises(StateLostError, match=f"the field '{field.decode()}' of 't:.flow.:manif"):
        Manifest.from_fields(KEYS, {**fields(Manifest("one")), field: value})
