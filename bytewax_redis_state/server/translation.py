"""Translate errors of redis-py into ours: one table, applied where Redis is called.

Invariant: the result is an error of this package, in one line, without a secret in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import redis.exceptions

from bytewax_redis_state.errors import (
    ConfigError,
    ServerAccessError,
    ServerError,
    ServerLoginError,
    ServerUnavailableError,
    ServerUnfitError,
    StateError,
    StateLostError,
)

__all__ = ["BY_CLASS", "BY_CODE", "BY_TEXT", "Rule", "translate_error", "translated"]


@dataclass(frozen=True)
class Rule:
    """Which of our errors an error of redis-py becomes.

    :arg error: The class to raise.
    :arg hint: The next step for the user.
    """

    error: type[StateError]
    hint: str


_AWAY = Rule(ServerUnavailableError, "check that Redis runs at this address, then try again")
_TLS_AWAY = Rule(
    ServerUnavailableError,
    "check that Redis runs at this address; if it wants client certificates, give the URL "
    "ssl_certfile=… and ssl_keyfile=… that it accepts",
)
_SERVER_CERTIFICATE = Rule(
    ServerUnavailableError,
    "give the URL ssl_ca_certs=… with the authority of the server's certificate, and a host name "
    "that is in the certificate",
)
_CLIENT_CERTIFICATE = Rule(
    ServerUnavailableError,
    "give the URL ssl_certfile=… and ssl_keyfile=… that Redis accepts and that have not expired",
)
_KEY_PAIR = Rule(
    ServerUnavailableError, "ssl_keyfile=… in the URL must be the key of ssl_certfile=…"
)
_NO_TLS = Rule(ServerUnavailableError, "this port does not use TLS: write the URL as redis://…")
_NO_FILE = Rule(
    ServerUnavailableError, "check the path of the socket and the paths in ssl_… options"
)
_SLOW = Rule(
    ServerUnavailableError, "try again; the command may have been carried out nevertheless"
)
_LATER = Rule(ServerUnavailableError, "try again in a moment")
_BUSY = Rule(
    ServerUnavailableError,
    "all connections of the pool are in use: raise pool_max, or use fewer threads",
)
_DAMAGED = Rule(
    StateLostError,
    "another program may have written here: restore Redis from a backup, or start the flow with "
    "another --namespace, where it begins again without state",
)
_FULL = Rule(ServerUnavailableError, "give Redis more memory: CONFIG SET maxmemory <bytes>")
_DISK = Rule(ServerUnavailableError, "read the server's log: it can't write to its disk")
_READ_ONLY = Rule(ServerUnavailableError, "this server is a replica: give the URL of the primary")
_LOGIN = Rule(
    ServerLoginError, "check user and password in the URL, or those that credentials returns"
)
_RIGHTS = Rule(
    ServerAccessError, "grant the user the command or key that the message names: ACL SETUSER"
)
_PROTECTED = Rule(ServerAccessError, "set a password on the server, or turn its protected mode off")
_VERSION = Rule(
    ServerUnfitError, "use Redis 6.2 or newer, or Valkey, on which this command is allowed"
)
_CLUSTER = Rule(
    ServerUnfitError, "this server is a node of a cluster: write the URL as redis+cluster://…"
)
_SLOTS = Rule(
    ServerUnfitError,
    "a cluster takes keys of one slot only: write the URL as redis+cluster://…, and give the keys "
    "of a transaction a common {tag}",
)
_NO_CLUSTER = Rule(ServerUnfitError, "this server is not in a cluster: write the URL as redis://…")
_DATABASE = Rule(ConfigError, "write a database into the URL that this server has")
_FOREIGN = Rule(
    ServerError, "another program may have written this key: use a namespace that nothing else uses"
)
_REFUSED = Rule(ServerError, "the server refused the command: look up its message")
_BUG = Rule(ServerError, "this is a bug in bytewax-redis-state: please report it")

# By name, not by class: an older or newer redis-py lacks some of these classes.
BY_CLASS: Mapping[str, Rule] = MappingProxyType(
    {
        "RedisError": _REFUSED,
        "ResponseError": _REFUSED,
        "ExecAbortError": _REFUSED,
        "ConnectionError": _AWAY,
        "MaxConnectionsError": _LATER,
        "TimeoutError": _SLOW,
        "BusyLoadingError": _LATER,
        "TryAgainError": _LATER,
        "NoScriptError": _LATER,
        "ClusterDownError": _LATER,
        "MasterDownError": _LATER,
        "ClusterError": _LATER,
        "SlotNotCoveredError": _LATER,
        "OutOfMemoryError": _FULL,
        "ReadOnlyError": _READ_ONLY,
        "AuthenticationError": _LOGIN,
        "AuthenticationWrongNumberOfArgsError": _LOGIN,
        "ExternalAuthProviderError": _LOGIN,
        "AuthorizationError": _RIGHTS,
        "NoPermissionError": _RIGHTS,
        "ModuleError": _VERSION,
        "NoSuchFieldsetError": _VERSION,
        "AskError": _CLUSTER,
        "MovedError": _CLUSTER,
        "RedisClusterException": _CLUSTER,
        "ClusterCrossSlotError": _SLOTS,
        "CrossSlotTransactionError": _SLOTS,
        "IncorrectPolicyType": _BUG,
        "InvalidPipelineStack": _BUG,
        "InvalidResponse": Rule(
            ServerUnavailableError, "check that a Redis server listens on this port"
        ),
        "DataError": _BUG,
        "PubSubError": _BUG,
        "WatchError": _BUG,
        "LockError": _BUG,
        "LockNotOwnedError": _BUG,
        "ChildDeadlockedError": _BUG,
    }
)
"""One rule for each class of ``redis.exceptions``; a class without one follows its base."""

BY_CODE: Mapping[str, Rule] = MappingProxyType(
    {
        "LOADING": _LATER,
        "BUSY": _LATER,
        "TRYAGAIN": _LATER,
        "CLUSTERDOWN": _LATER,
        "MASTERDOWN": _LATER,
        "NOREPLICAS": _LATER,
        "NOSCRIPT": _LATER,
        "OOM": _FULL,
        "MISCONF": _DISK,
        "READONLY": _READ_ONLY,
        "NOAUTH": _LOGIN,
        "WRONGPASS": _LOGIN,
        "NOPERM": _RIGHTS,
        "DENIED": _PROTECTED,
        "MOVED": _CLUSTER,
        "ASK": _CLUSTER,
        "CROSSSLOT": _SLOTS,
        "WRONGTYPE": _FOREIGN,
    }
)
"""One rule for each error code that redis-py has no class for, or that a script passed on."""

BY_TEXT: Mapping[str, Rule] = MappingProxyType(
    {
        "unknown command": _VERSION,
        "unknown subcommand": _VERSION,
        "unknown redis command": _VERSION,
        "acl failure in script": _RIGHTS,
        "user executing the script": _RIGHTS,
        "db index is out of range": _DATABASE,
        "min-replicas-to-write": _LATER,
        "no connection available": _BUSY,
        "cluster support disabled": _NO_CLUSTER,
        "certificate_verify_failed": _SERVER_CERTIFICATE,
        "certificate_required": _CLIENT_CERTIFICATE,
        "alert_certificate": _CLIENT_CERTIFICATE,
        "alert_bad_certificate": _CLIENT_CERTIFICATE,
        "alert_unknown_ca": _CLIENT_CERTIFICATE,
        "key_values_mismatch": _KEY_PAIR,
        "wrong_version_number": _NO_TLS,
        "no such file or directory": _NO_FILE,
    }
)
"""One rule for each error that only its text, in lower case, tells apart."""

_DRIVER_ERRORS = tuple(
    kind
    for kind in vars(redis.exceptions).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
)
# What scripts/number_checks.lua says, with what Redis puts around it.
_DAMAGE = re.compile(r"DAMAGED (the field .*?this package writes)", re.DOTALL)
# redis-py quotes the whole command of a pipeline, Redis the arguments of an unknown one.
_COMMAND = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")
# Redis 6.2 wraps what a script ran into: "ERR Error running script (…): @user_script: 1: -OOM …"
_CODE = re.compile(r"(?:.*@user_script: ?\d+: -?)?([A-Z]{2,}) ", re.DOTALL)


def _cleaned(text: str) -> str:
    text = _ARGUMENTS.sub("", _COMMAND.sub("", text))
    return " ".join(_PASSWORD.sub("***@", text).split())


def _rule_of_class(kind: type[BaseException]) -> Rule:
    names = (base.__name__ for base in kind.__mro__)
    return next((BY_CLASS[name] for name in names if name in BY_CLASS), _REFUSED)


def _rule_of_text(text: str) -> Rule | None:
    code = _CODE.match(text)
    if code and code[1] in BY_CODE:
        return BY_CODE[code[1]]
    return next((rule for part, rule in BY_TEXT.items() if part in text.lower()), None)


def translate_error(error: Exception, address: str) -> StateError:
    """Translate one error of redis-py.

    :arg error: What redis-py raised.
    :arg address: The address of Redis, as in ``RedisConfig.address``.
    :returns: Our error, not yet raised.
    """
    text = _cleaned(str(error)).rstrip(".")  # a hint follows
    damage = _DAMAGE.search(text)
    if damage is not None:
        return _DAMAGED.error(damage[1], _DAMAGED.hint)
    rule = _rule_of_class(type(error))
    if rule in (_REFUSED, _AWAY):
        rule = _rule_of_text(text) or rule
    if rule is _AWAY and address.startswith("rediss") and "refused" not in text:
        rule = _TLS_AWAY  # it closes connections without a certificate that it accepts
    return rule.error(f"Redis at {_cleaned(address)}: {text}", rule.hint)


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Raise our errors in place of redis-py's; the original one is the ``__cause__``.

    :arg address: The address of Redis, as in ``RedisConfig.address``.
    :raises ServerUnavailableError: If Redis can't be reached or refuses work for now.
    :raises ServerLoginError: If it wants other credentials.
    :raises ServerAccessError: If the user may not run the command.
    :raises ServerUnfitError: If the server is too old or of a kind that does not fit.
    :raises ServerError: If it refused for another reason.
    :raises ConfigError: If the URL names a database that the server does not have.
    """
    try:
        yield
    except _DRIVER_ERRORS as error:
        raise translate_error(error, address) from error
