"""Secret keys from files, the environment and Python: read exactly, checked, and never shown."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bytewax_redis_state import RedisRecovery
from bytewax_redis_state.config import SECRETS_ENVIRONMENT, RecoverySettings, Secrets
from bytewax_redis_state.errors import ConfigError

KEY, OTHER = b"k" * 31 + b"\xff", b"\xfb\xff" * 16
TEXT, OTHER_TEXT = (base64.b64encode(key).decode() for key in (KEY, OTHER))
TOML = f"""
sign_with = "2026-11"
accept_unsigned = true
encrypt_with = "e"
[signing_keys]
"2026-10" = "{OTHER_TEXT}"
"2026-11" = "{TEXT}"
[encryption_keys]
e = "{OTHER_TEXT}"
"""
WANTED = Secrets(
    signing_keys={"2026-10": OTHER, "2026-11": KEY},
    sign_with="2026-11",
    accept_unsigned=True,
    encryption_keys={"e": OTHER},
    encrypt_with="e",
)


def written(tmp_path, text: str, name: str = "keys.toml", mode: int = 0o600):
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_toml_json_and_the_environment_say_the_same(tmp_path):
    document = {
        "sign_with": "2026-11",
        "accept_unsigned": True,
        "encrypt_with": "e",
        "signing_keys": {"2026-10": OTHER_TEXT.translate({43: 45, 47: 95}), "2026-11": TEXT},
        "encryption_keys": {"e": OTHER_TEXT},
    }
    env = {
        "BYTEWAX_REDIS_SIGNING_KEYS": f"2026-10={OTHER_TEXT}, 2026-11={TEXT}",
        "BYTEWAX_REDIS_SIGN_WITH": "2026-11",
        "BYTEWAX_REDIS_ACCEPT_UNSIGNED": "true",
        "BYTEWAX_REDIS_ENCRYPTION_KEYS": f"e={OTHER_TEXT}",
        "BYTEWAX_REDIS_ENCRYPT_WITH": "e",
        "BYTEWAX_REDIS_ACCEPT_UNENCRYPTED": "",
    }
    file = written(tmp_path, TOML)
    assert Secrets.from_file(file) == WANTED
    assert Secrets.from_file(written(tmp_path, json.dumps(document), "keys.json")) == WANTED
    assert Secrets.from_env(env) == WANTED
    assert Secrets.from_env({"BYTEWAX_REDIS_KEY_FILE": str(file)}) == WANTED
    assert Secrets.from_env({}) == Secrets()


def test_settings_read_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BYTEWAX_REDIS_KEY_FILE", str(written(tmp_path, TOML)))
    monkeypatch.setenv("BYTEWAX_REDIS_COMPRESSION", "zlib")
    assert RecoverySettings().secrets == WANTED
    assert RecoverySettings().compression == "zlib"
    assert RecoverySettings(secrets=Secrets()).secrets == Secrets()


def test_every_variable_is_a_field():
    names = {name.removeprefix("BYTEWAX_REDIS_").lower() for name in SECRETS_ENVIRONMENT}
    assert names - {"key_file"} == set(Secrets().given)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o660, 0o602, 0o666])
def test_a_file_that_others_can_read_or_change_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError, match=f"its mode is {mode:04o}: others may"):
        Secrets.from_file(written(tmp_path, TOML, mode=mode))


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_file_of_its_owner_or_group_is_read(tmp_path, mode):
    assert Secrets.from_file(written(tmp_path, TOML, mode=mode)) == WANTED


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (TOML.replace("sign_with", "sing_with"), "k.toml", "did you mean 'sign_with'"),
        (TOML.replace("true", '"yes"'), "k.toml", "accept_unsigned is a str; give true or false"),
        (
            TOML.replace(TEXT, TEXT[:-2]),
            "k.toml",
            "the key '2026-11' in signing_keys is not base64",
        ),
        (TOML.replace(f'"{TEXT}"', "7"), "k.toml", "the key '2026-11' in signing_keys is not"),
        (TOML + TEXT, "k.toml", "it is not a TOML"),
        (f'{{"signing_keys": {{"a": "{TEXT}"', "k.json", "it is not JSON"),
        (f'["{TEXT}"]', "k.json", "it holds a list"),
        (f'{{"signing_keys": "{TEXT}"}}', "k.json", r"signing_keys is a str; write it as"),
        ("[" * 100_000, "k.json", "it is not JSON"),
    ],
)
def test_a_file_of_something_else_is_refused_without_showing_it(tmp_path, text, name, said):
    path = written(tmp_path, text, name)
    with pytest.raises(ConfigError, match=said) as caught:
        Secrets.from_file(path)
    assert str(path) in str(caught.value)
    for secret in (TEXT, TEXT[:-2], OTHER_TEXT):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KEY_FILE": "x", "SIGN_WITH": "a"}, "KEY_FILE and BYTEWAX_REDIS_SIGN_WITH are both set"),
        ({"SIGNING_KEYS": TEXT.rstrip("=")}, "SIGNING_KEYS is not a list of keys"),
        ({"SIGNING_KEYS": f"a={TEXT}x"}, "the key 'a' in BYTEWAX_REDIS_SIGNING_KEYS is not base64"),
        ({"ACCEPT_UNSIGNED": "maybe"}, "ACCEPT_UNSIGNED: 'maybe' is neither true nor false; give"),
        ({"KEY_FILE": "/nowhere"}, "key file '/nowhere': it can't be read"),
    ],
)
def test_an_environment_that_says_something_else_is_refused(env, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Secrets.from_env({f"BYTEWAX_REDIS_{name}": value for name, value in env.items()})
    assert TEXT not in str(caught.value)


@given(key=st.binary(min_size=16, max_size=40))
def test_no_form_of_the_settings_shows_a_key(key):
    secrets = Secrets(signing_keys={"id-1": key}, sign_with="id-1")
    settings = RecoverySettings(secrets=secrets)
    recovery = RedisRecovery("redis://localhost", secrets=secrets)
    for shown in (repr(secrets), str(secrets), repr(settings), repr(recovery), str(settings)):
        assert "id-1" in shown
        for form in (repr(key)[2:-1], key.hex(), base64.b64encode(key).decode()):
            assert form not in shown


def test_keys_that_can_not_be_used_are_refused_when_the_settings_are_made():
    short = Secrets(signing_keys={"a": b"short"}, sign_with="a")
    with pytest.raises(ConfigError, match=r"signing_keys\['a'\] has 5 bytes"):
        RedisRecovery("redis://localhost", secrets=short)
    with pytest.raises(ConfigError, match="sign_with is 'b' and signing_keys has"):
        RedisRecovery("redis://x", secrets=Secrets(signing_keys={"a": KEY}, sign_with="b"))
    for field, value in (("secrets", {"a": KEY}), ("compression", "lz4"), ("allow_imports", "m")):
        with pytest.raises(ConfigError, match=field):
            RedisRecovery("redis://localhost", **{field: value})
