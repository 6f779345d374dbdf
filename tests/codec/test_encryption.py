"""Values are secret, bound to their place, and keys can be exchanged while a program runs."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bytewax_redis_state.codec import Codec
from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    OVERHEAD,
    close_envelope,
    head_of,
    open_envelope,
)
from bytewax_redis_state.errors import ConfigError, DecodeError

PLACE = {"namespace": "bytewax", "flow_id": "orders", "step": "sum"}
OLD, NEW = b"o" * 16, b"n" * 32
PLAIN = Codec().bind(**PLACE)


def bound(keys, encrypt_with, place=PLACE, **settings):
    codec = Codec(encryption_keys=keys, encrypt_with=encrypt_with, **settings)
    return codec.bind(**place)


SECRET = bound({"old": OLD}, "old")


@pytest.mark.parametrize("length", [16, 24, 32])
@pytest.mark.parametrize("value", [None, 5, "secret text", ("secret", {"text": [1]}), range(3)])
def test_a_value_comes_back_and_its_bytes_tell_nothing(length, value):
    codec = bound({"k1": bytes(length)}, "k1")
    data = codec.encode("user42", value)
    assert codec.decode("user42", data) == value
    assert dict(codec.decode_all({"user42": data})) == {"user42": value}
    assert b"secret" not in data
    assert open_envelope("user42", data).key_id == b"k1"


def test_the_same_value_never_has_the_same_bytes():
    assert len({SECRET.encode("k", 5)[OVERHEAD:] for _ in range(1000)}) == 1000


def test_bytes_are_fixed_but_for_the_nonce(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    golden = "b1100a535517036f6c64000102030405060708090a0bdb0f24cefb3b8f0975708804702f4c7635"
    assert SECRET.encode("user42", 5).hex() == golden
    assert SECRET.decode("user42", bytes.fromhex(golden)) == 5


def test_the_form_is_what_the_table_says():
    """Taken apart by hand, so that another language could."""
    data = SECRET.encode("user42", 5)
    assert data[:2] + data[OVERHEAD : OVERHEAD + 4] == b"\xb1\x10\x03old"
    nonce, sealed = data[OVERHEAD + 4 : OVERHEAD + 16], data[OVERHEAD + 16 :]
    place = b"".join(
        len(part).to_bytes(4, "big") + part for part in (b"bytewax", b"orders", b"sum", b"user42")
    )
    assert AESGCM(OLD).decrypt(nonce, sealed, place + b"\xb1\x10\x03old") == b"\x05"


# --- bound to its place


PLACES = [
    {"namespace": "bytewax2"},
    {"namespace": ""},
    {"flow_id": "order"},
    {"flow_id": "orderss", "step": "um"},
    {"step": "sum2"},
    {"step": ""},
    {"namespace": "orders", "flow_id": "bytewax"},
]


@pytest.mark.parametrize("change", PLACES, ids=str)
def test_a_value_of_another_place_is_refused(change):
    other = bound({"old": OLD}, "old", PLACE | change)
    with pytest.raises(DecodeError, match="can't be decrypted with its key 'old'"):
        other.decode("user42", SECRET.encode("user42", 5))


def test_a_value_of_another_key_is_refused_also_with_a_right_check_sum():
    data = SECRET.encode("user42", 5)
    moved = close_envelope("user43", data[:2] + data[OVERHEAD:])
    with pytest.raises(DecodeError, match="step 'sum', key 'user43': can't be decrypted"):
        SECRET.decode("user43", moved)


def test_names_that_join_to_the_same_text_are_two_places():
    place = {"namespace": "a", "flow_id": "bc", "step": ""}
    data = bound({"old": OLD}, "old", place).encode("d", 1)
    for other, key in [({"flow_id": "b", "step": "c"}, "d"), ({"flow_id": "b"}, "cd")]:
        moved = close_envelope(key, data[:2] + data[OVERHEAD:])
        with pytest.raises(DecodeError):
            bound({"old": OLD}, "old", place | other).decode(key, moved)


def test_a_changed_header_is_refused():
    data = SECRET.encode("k", 5)
    body = data[OVERHEAD + 4 :]
    for head in (
        head_of(MSGPACK + 1, key_id=b"old"),
        head_of(MSGPACK, key_id=b"old", compressed=True),
        head_of(MSGPACK, key_id=b"old", deadline=1),
    ):
        with pytest.raises(DecodeError, match="can't be decrypted"):
            SECRET.decode("k", close_envelope("k", head + body))


@pytest.mark.parametrize("length", range(30))
def test_every_truncation_is_refused_also_with_a_right_check_sum(length):
    data = SECRET.encode("k", 5)
    cut = close_envelope("k", data[:2] + data[OVERHEAD : OVERHEAD + length])
    with pytest.raises(DecodeError, match="'k'"):
        SECRET.decode("k", cut)


# --- keys


def test_keys_are_exchanged_without_a_gap():
    """First readers learn the new key, then writers use it, then the old one goes."""
    data = [SECRET.encode("k", 1)]
    learning = bound({"old": OLD, "new": NEW}, "old")
    data.append(learning.encode("k", 2))
    writing = bound({"old": OLD, "new": NEW}, "new")
    data.append(writing.encode("k", 3))
    assert [learning.decode("k", d) for d in data] == [1, 2, 3]
    assert [writing.decode("k", d) for d in data] == [1, 2, 3]
    done = bound({"new": NEW}, "new")
    assert done.decode("k", data[2]) == 3
    with pytest.raises(DecodeError, match="needs the encryption key 'old'") as caught:
        done.decode("k", data[0])
    assert "encryption_keys" in caught.value.hint


def test_a_value_is_resealed_without_being_built():
    class Unbuildable:
        def __reduce__(self):
            return os.abort, ()

    data = SECRET.encode("k", Unbuildable())
    new = bound({"new": NEW}, "new", PLACE | {"namespace": "elsewhere"})
    moved = SECRET.reseal("k", data, new)
    assert open_envelope("k", moved).key_id == b"new"
    assert new.reseal("k", moved, PLAIN) == PLAIN.encode("k", Unbuildable())
    assert PLAIN.reseal("k", PLAIN.encode("k", (1, 2)), SECRET)[1:2] == b"\x11"


def test_resealing_keeps_the_deadline():
    data = close_envelope("k", head_of(MSGPACK, deadline=77) + b"\x05")
    assert open_envelope("k", PLAIN.reseal("k", data, SECRET)).deadline == 77


def test_the_wrong_bytes_for_a_key_are_refused_without_showing_them():
    other = bound({"old": b"x" * 16}, "old")
    with pytest.raises(DecodeError, match="or the key's bytes differ") as caught:
        other.decode("k", SECRET.encode("k", 5))
    assert "xxxx" not in str(caught.value)


def test_a_plain_value_is_refused_unless_it_is_accepted():
    data = PLAIN.encode("k", 5)
    with pytest.raises(DecodeError, match="is not encrypted, and accept_unencrypted is False"):
        SECRET.decode("k", data)
    with pytest.raises(DecodeError, match="is not encrypted"):
        list(SECRET.decode_all({"k": data}))
    coming = bound({"old": OLD}, "old", accept_unencrypted=True)
    assert coming.decode("k", data) == 5
    assert open_envelope("k", coming.encode("k", 5)).key_id == b"old"


def test_encryption_can_be_taken_out_again():
    going = bound({"old": OLD}, None, accept_unencrypted=True)
    assert going.decode("k", SECRET.encode("k", 5)) == 5
    assert going.encode("k", 5) == PLAIN.encode("k", 5)


def test_a_codec_without_keys_names_the_one_it_lacks():
    with pytest.raises(DecodeError, match="needs the encryption key 'old'"):
        PLAIN.decode("k", SECRET.encode("k", 5))


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"encryption_keys": {"a": bytes(15)}, "encrypt_with": "a"}, r"\['a'\] has 15 bytes"),
        ({"encryption_keys": {"a": b""}, "encrypt_with": "a"}, r"\['a'\] has 0 bytes"),
        ({"encryption_keys": {"a": "s" * 16}, "encrypt_with": "a"}, r"\['a'\] is of type str"),
        ({"encryption_keys": {"": bytes(16)}, "encrypt_with": ""}, "has the key ID ''"),
        ({"encryption_keys": {1: bytes(16)}, "encrypt_with": 1}, "has the key ID 1"),
        ({"encryption_keys": {"a\n": bytes(16)}, "encrypt_with": "a\n"}, "has the key ID"),
        ({"encryption_keys": {"ü" * 128: bytes(16)}, "encrypt_with": "ü" * 128}, "has the key ID"),
        ({"encryption_keys": bytes(16), "encrypt_with": "a"}, "encryption_keys is of type bytes"),
        ({"encryption_keys": None}, "encryption_keys is of type NoneType"),
        (
            {"encryption_keys": {"a": bytes(16)}, "encrypt_with": "b"},
            r"encrypt_with is 'b' and encryption_keys has \['a'\]",
        ),
        ({"encrypt_with": "a"}, "encrypt_with is 'a' and encryption_keys has 'no key'|no key"),
        ({"encryption_keys": {"a": bytes(16)}}, "encryption_keys has keys and encrypt_with is"),
        ({"accept_unencrypted": True}, "accept_unencrypted is True and encryption_keys is empty"),
    ],
)
def test_settings_that_can_not_be_right_are_named(settings, what):
    with pytest.raises(ConfigError, match=what):
        Codec(**settings)


def test_no_key_shows():
    codec = Codec(
        encryption_keys={"k1": b"hush-hush-hush-1"},
        encrypt_with="k1",
        signing_keys={"s1": b"hush-hush-hush-2"},
        sign_with="s1",
    )
    bound = codec.bind(**PLACE)
    for thing in (codec, bound, bound._stages, bound._stages.cipher, bound._stages.signer):
        assert "hush" not in repr(thing)
        assert "68757368" not in repr(thing)
    assert "hush" not in repr(bound._stages.cipher._ring)
    for keys in ({"k1": b"hush" * 3}, {"k1": b"hush" * 4, "k2": "hush" * 4}):
        with pytest.raises(ConfigError) as caught:
            Codec(encryption_keys=keys, encrypt_with="k1")
        assert "hush" not in str(caught.value)


def test_a_codec_with_keys_is_a_value():
    codec = Codec(encryption_keys={"old": OLD}, encrypt_with="old", compression="zstd")
    codec.bind(**PLACE)
    copy = pickle.loads(pickle.dumps(codec))
    assert copy == codec
    assert hash(copy) == hash(codec)
    assert copy.bind(**PLACE).decode("k", SECRET.encode("k", 5)) == 5
    assert codec != Codec(encryption_keys={"old": NEW}, encrypt_with="old", compression="zstd")


def test_changing_the_dict_later_changes_nothing():
    keys = {"old": OLD}
    codec = Codec(encryption_keys=keys, encrypt_with="old")
    keys["new"] = keys.pop("old")
    assert codec.encryption_keys == {"old": OLD}


def test_protection_is_told():
    assert not Codec(compression="zlib").protects
    assert Codec(encryption_keys={"a": OLD}, encrypt_with="a").protects
    assert Codec(signing_keys={"a": OLD}, sign_with="a").protects


def test_without_its_package_it_says_how_to_get_it():
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from bytewax_redis_state.codec import Codec\n"
        "Codec(encryption_keys={'a': bytes(16)}, encrypt_with='a')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in done.stderr
    assert "pip install 'bytewax-redis-state[crypto]'" in done.stderr


def test_a_plain_codec_loads_neither_package():
    code = (
        "import sys\nfrom bytewax_redis_state.codec import Codec\n"
        "c = Codec(compression='zlib', signing_keys={'a': bytes(16)}, sign_with='a')\n"
        "b = c.bind(namespace='', flow_id='', step=''); b.decode('k', b.encode('k', 'x' * 2000))\n"
        "assert not {'cryptography', 'zstandard'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_share_a_codec():
    failures = []

    def work(number):
        for turn in range(300):
            value = {"number": number, "turn": turn, "text": "x" * turn}
            key = f"k{number}"
            if SECRET.decode(key, SECRET.encode(key, value)) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
