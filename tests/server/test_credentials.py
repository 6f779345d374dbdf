"""Credentials by callback: asked for each connection; a token that rotates stops no flow."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from bytewax_redis_state import RedisRecovery, RedisStateBackend
from bytewax_redis_state.config import RedisConfig
from bytewax_redis_state.errors import ConfigError, ServerLoginError, ServerUnavailableError
from bytewax_redis_state.server.client import connect
from bytewax_redis_state.server.credentials import name_of, provider_of
from tests.run.conftest import Runner, Sums, finished

SCRIPT = Path(sys.executable).with_name("bytewax-redis-state")
FAST = ("-s", "0.1", "--checkpoint-interval", "0.2")
REPLICATOR = b"bytewax_redis_state.recovery.replicator.process"
HERE = "tests.server.test_credentials"
TOKENS = """
from pathlib import Path
def get():
    Path("asked").open("a").write("x")
    return "app", Path("token").read_text()
"""


def given():
    return "app", "sesame"


class Provider(redis.CredentialProvider):
    def get_credentials(self):
        return ("sesame",)


provider = Provider()


@pytest.fixture
def server(start_redis):
    return start_redis()


@pytest.fixture
def admin(server):
    with redis.Redis.from_url(server.url) as client:
        yield client


def let_in(admin, token: str) -> None:
    admin.execute_command(
        "ACL", "SETUSER", "app", "on", "resetpass", f">{token}", "allkeys", "+@all"
    )


@pytest.mark.parametrize("asked", [given, lambda: ["app", "sesame"], f"{HERE}:given"])
def test_the_client_and_the_backend_ask_it(server, admin, asked):
    let_in(admin, "sesame")
    config = RedisConfig(url=server.url, credentials=asked)
    with connect(config) as client:
        assert client.acl_whoami() == "app"
    with RedisStateBackend(config) as backend:
        backend.put("k", 1)
        assert backend.get("k") == 1

    async def through_coroutines():
        async with RedisStateBackend(config).aio as backend:
            return await backend.get("k")

    assert asyncio.run(through_coroutines()) == 1


def test_a_password_alone_and_a_provider_are_of_the_default_user(start_redis):
    server = start_redis("--requirepass", "sesame")
    for asked in (provider, f"{HERE}:provider", lambda: "sesame"):
        with connect(RedisConfig(url=server.url, credentials=asked)) as client:
            assert client.acl_whoami() == "default"


def fails():
    raise OSError("the vault is shut")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda: ("app", "wrong"), "WRONGPASS|invalid username-password"),
        (fails, "credentials fails failed: OSError: the vault is shut"),
        (lambda: None, "gave a NoneType and not"),
        (lambda: ("a", "b", "s3cret"), "gave a tuple and not"),
        (lambda: (b"app", b"s3cret"), "gave a tuple and not"),
    ],
)
def test_what_is_no_login_is_one_line_and_shows_no_secret(server, admin, asked, said):
    let_in(admin, "sesame")
    with pytest.raises(ServerLoginError, match=said) as caught:
        connect(RedisConfig(url=server.url, credentials=asked))
    assert isinstance(caught.value, ServerUnavailableError), "where it changes, later may help"
    assert "credentials" in caught.value.hint
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (7, "credentials is of type int"),
        ("no-colon", "credentials is 'no-colon'; write it as module:name"),
        ("nowhere.to.be:found", "No module named 'nowhere'"),
        (f"{HERE}:absent", "absent does not exist"),
        (f"{HERE}:HERE", "HERE is a str"),
        (lambda: "x", "lambda.*can't import; define it in a module"),
        (provider, "an instance.*can't import"),
    ],
)
def test_what_a_replicator_could_not_ask_is_refused_at_once(wrong, said):
    with pytest.raises(ConfigError, match=said):
        RedisRecovery(RedisConfig(url="redis://localhost", credentials=wrong))


def test_a_function_is_named_for_the_replicator():
    assert name_of(given) == f"{HERE}:given"
    assert name_of(f"{HERE}:provider") == f"{HERE}:provider"
    assert (name_of(None), provider_of(None)) == (None, None)


def test_a_user_in_the_url_beside_it_is_refused():
    for url in ("redis://app:s3cret@h", "redis://:s3cret@h", "redis+sentinel://a:s3cret@h/s"):
        with pytest.raises(ConfigError, match="remove user and password from the URL") as caught:
            RedisConfig(url=url, credentials=given)
        assert "s3cret" not in str(caught.value)


def test_settings_show_nothing_of_it_and_travel():
    config = RedisConfig(url="redis://h", credentials=given)
    assert repr(config).endswith("credentials=…)")
    assert pickle.loads(pickle.dumps(config)) == config
    assert RedisConfig.from_env(environ={"BYTEWAX_REDIS_CREDENTIALS": "m:f"}).credentials == "m:f"
    assert "given" not in repr(RedisConfig.builder().credentials(given))


@pytest.fixture
def tokens(server, admin, tmp_path):
    """A module that hands out what a file holds, and a runner that asks it."""
    (tmp_path / "tokens.py").write_text(TOKENS)
    (tmp_path / "token").write_text("first-token")
    let_in(admin, "first-token")
    with Runner(server.url, tmp_path) as run:
        yield run


def replicators(process) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            runs = REPLICATOR in (entry / "cmdline").read_bytes()
            if runs and os.getpgid(int(entry.name)) == process.pid:
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_a_token_rotates_under_a_running_flow(tokens, admin, tmp_path, eventually):
    sums = Sums(admin)
    options = (*FAST, "--credentials", "tokens:get")
    process = tokens.start(*options, ITEMS="3000", PAUSE="0.01")

    def goes_on():
        before = sums.progress()
        eventually(lambda: process.poll() is not None or sums.progress() > before + 5)
        assert process.poll() is None, process.communicate()

    eventually(lambda: sums.manifest and sums.manifest.processes)
    goes_on()
    (pid,) = replicators(process)
    asked = len((tmp_path / "asked").read_text())
    # The new one is known before the old one is refused.
    (tmp_path / "token").write_text("second-token")
    let_in(admin, "second-token")
    admin.execute_command("CLIENT", "KILL", "USER", "app")
    goes_on()
    assert len((tmp_path / "asked").read_text()) > asked
    admin.execute_command("ACL", "LOG", "RESET")
    # It is revoked first: nobody is let in for a while, and that counts as Redis being away.
    let_in(admin, "third-token")
    admin.execute_command("CLIENT", "KILL", "USER", "app")
    eventually(lambda: sum(entry["count"] for entry in admin.acl_log()) > 3)
    (tmp_path / "token").write_text("third-token")
    goes_on()
    assert replicators(process) == {pid}
    os.killpg(process.pid, signal.SIGKILL)
    said = finished(process).stderr
    assert "redis away" in said
    assert "redis back" in said
    assert "-token" not in said
    done = tokens(*options, ITEMS="400")
    assert done.returncode == 0, done.stderr
    sums.require_sums_of_sources(400)
    doctor = [SCRIPT, "doctor", "--verify", "numbers", "--redis", tokens.url]
    subprocess.run([*doctor, "--credentials", "tokens:get"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("kind", ["cluster", pytest.param("sentinel", marks=pytest.mark.long)])
def test_a_token_rotates_while_servers_are_followed(kind, start_group, tmp_path, eventually):
    """Each node knows the users; which one a connection goes to is found out without the token."""
    group = start_group(kind, **({"replicas": 0} if kind == "cluster" else {"replicas": 1}))
    nodes = [node.client for node in group.nodes]

    def rotate(token: str) -> None:
        (tmp_path / "token").write_text(token)
        for node in nodes:
            let_in(node, token)
            node.execute_command("CLIENT", "KILL", "USER", "app")

    (tmp_path / "tokens.py").write_text(TOKENS)
    rotate("first-token")
    options = (*FAST, "--credentials", "tokens:get")
    with Runner(group.url, tmp_path) as run, connect(RedisConfig(url=group.url)) as client:
        sums = Sums(client)
        process = run.start(*options, ITEMS="30000", PAUSE="0.01")

        def goes_on() -> None:
            before = sums.progress()
            eventually(lambda: process.poll() is not None or sums.progress() > before + 5)
            assert process.poll() is None, process.communicate()

        eventually(lambda: sums.manifest and sums.manifest.processes)
        goes_on()  # a start whose connection is cut ends with an error
        for token in ("second-token", "third-token"):
            asked = (tmp_path / "asked").stat().st_size
            rotate(token)
            goes_on()
            assert (tmp_path / "asked").stat().st_size > asked
        if kind == "sentinel":
            first = group.primary
            group.fail_over(first)
            group.wait_failed_over(first)
            goes_on()
        os.killpg(process.pid, signal.SIGKILL)
        finished(process)
        done = run(*options, ITEMS="300")
        assert done.returncode == 0, done.stderr
        sums.require_sums_of_sources(300)
