"""Pickle and imports: where they can happen at all, and that nothing else leads there."""

from __future__ import annotations

import ast
import os
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings

import bytewax_redis_state as package
from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import MSGPACK, PICKLE, seal
from bytewax_redis_state.codec.user_classes import DATACLASS, ENUM, NAMED_ENUM, NAMEDTUPLE
from bytewax_redis_state.errors import DecodeError
from tests.fuzz.targets import LENIENT, SAFE
from tests.fuzz.test_targets import inputs, packed

ROOT = Path(package.__file__).parent
LOADERS = {"load", "loads", "Unpickler", "_Unpickler"}


def users_of_pickle() -> set[str]:
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pickle"
            assert not (isinstance(node, ast.ImportFrom) and node.module == "pickle"), path
            if named and node.attr in LOADERS:
                found.add(str(path.relative_to(ROOT)))
    return found


def test_pickle_is_loaded_in_three_places_only():
    """The codec, where it is allowed; a stock store's rows, by stand-ins; the harness's own run."""
    assert users_of_pickle() == {
        "codec/codec.py",
        "stock/inert_pickle.py",
        "chaos/result_reader.py",
    }


@pytest.mark.parametrize("name", ["envelope", "sealed", "signed"])
def test_no_bytes_make_a_codec_without_pickle_load_one(name, monkeypatch):
    def caught(*_args):
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(pickle, "loads", caught)
    before = set(sys.modules)

    @settings(max_examples=100, deadline=None)
    @given(inputs(name))
    def run(data: bytes) -> None:
        for codec in (SAFE, LENIENT):
            for read in (data, seal("k", PICKLE, data), seal("k", MSGPACK, data)):
                try:
                    codec.decode("k", read)
                except DecodeError:
                    continue

    run()
    assert {
        m for m in set(sys.modules) - before if not m.startswith(("hypothesis", "encod"))
    } == set()


def test_the_test_would_notice(monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda _data: (_ for _ in ()).throw(AssertionError))
    with pytest.raises((AssertionError, DecodeError)) as caught:
        Codec().bind(namespace="ns", flow_id="f", step="s").decode("k", seal("k", PICKLE, b"x"))
    assert "AssertionError" in repr(caught.value.__cause__) or caught.type is AssertionError


def named(code: int, name: str, rest: bytes = b"") -> bytes:
    text = name.encode()
    extension = bytes([len(text)]) + text + rest
    import msgpack

    return seal("k", MSGPACK, packed(msgpack.ExtType(code, extension)))


@pytest.mark.parametrize("code", [ENUM, NAMED_ENUM, DATACLASS, NAMEDTUPLE])
@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "subprocess:Popen",
        "pathlib:PosixPath",
        "pickle:Unpickler",
        "os.path:os.system",
        "sys:modules",
        "tests.codec.test_pickle:os.system",
        "antigravity:x",
        ":",
        "os:",
        "os:__class__.__base__",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_called(code, name):
    with pytest.raises(DecodeError):
        SAFE.decode("k", named(code, name, packed({})))
    assert os.system is not None
    assert "antigravity" not in sys.modules


def test_a_listed_module_does_not_list_what_is_below_or_beside_it(tmp_path, monkeypatch):
    (tmp_path / "parent").mkdir()
    for file in ("__init__", "child"):
        source = "from enum import Enum\nclass Colour(Enum):\n    RED = 1\n"
        (tmp_path / "parent" / f"{file}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    codec = Codec(allow_pickle=False, allow_imports=frozenset({"parent"}))
    bound = codec.bind(namespace="ns", flow_id="f", step="s")
    with pytest.raises(DecodeError, match=r"'parent.child' is neither loaded nor in allow_imports"):
        bound.decode("k", named(NAMED_ENUM, "parent.child:Colour", b"RED"))
    assert bound.decode("k", named(NAMED_ENUM, "parent:Colour", b"RED")).value == 1
    for module in ("parent", "parent.child"):
        sys.modules.pop(module, None)
