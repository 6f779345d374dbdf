"""The codec: a state of a step to the bytes that Redis holds, and back.

A value is written as msgpack if msgpack can hold it exactly, otherwise as a pickle if the settings
allow it. Then it goes through the :mod:`.stages` that the settings ask for.

Invariant: ``decode(encode(value))`` equals ``value`` and has the same types, all the way down. A
value for which that is impossible is an error.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from typing import Any, Literal, TypeVar

from bytewax_redis_state.codec.batch import seal_plain_all
from bytewax_redis_state.codec.compression import Compressor, Inflater
from bytewax_redis_state.codec.encryption import Cipher
from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    MSGPACK_TUPLE,
    PICKLE,
    PLAIN_STARTS,
    Envelope,
    any_protected,
    is_sound,
    key_bytes,
    key_ids_of,
    open_envelope,
    seal_plain,
)
from bytewax_redis_state.codec.packing import Packing
from bytewax_redis_state.codec.paths import innermost_failure, path_to
from bytewax_redis_state.codec.pickle_record import PickleRecord
from bytewax_redis_state.codec.signing import Signer
from bytewax_redis_state.codec.stages import AssociatedData, Stages
from bytewax_redis_state.codec.stand_ins import StandInClasses
from bytewax_redis_state.codec.type_format import NotPackable
from bytewax_redis_state.codec.user_classes import UserClasses
from bytewax_redis_state.config import RecoverySettings
from bytewax_redis_state.errors import CodecError, ConfigError, DecodeError, EncodeError

__all__ = ["MOST_STATE_BYTES", "Codec", "StateCodec"]

MOST_STATE_BYTES = 511 * 1024 * 1024
"""Of one encoded state: a value in Redis, and an argument of a command, has 512 MiB at most, and a
state travels with its key."""

logger = logging.getLogger(__name__)

_PICKLE_PROTOCOL = 5
_CHECKS_ONLY = Packing(StandInClasses())
_Error = TypeVar("_Error", bound=CodecError)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Configure how states become bytes.

    Without pickle, reading a value runs no code that the value chose: the reader rebuilds
    dataclasses, Enum members and namedtuples of modules that are loaded already or listed, by
    setting fields. A dict or set still hashes and compares its keys, as those classes define it.

    With pickle, anybody who can write to Redis can run code in the readers, as with any pickle. So
    ``allow_pickle`` also allows the import of any module that a value names, and the methods that
    rebuild instances of a class that changed (``__new__``, ``__setstate__``, ``_missing_``).

    :arg allow_pickle: Whether values that msgpack can't hold are pickled, and pickles read.
    :arg allow_imports: Full names of modules that may be imported on reading where pickle is not
        allowed and they are not loaded.
    :arg compression: ``"zstd"`` (extra ``zstd``), ``"zlib"`` or ``None``, for writing. A reader
        takes both. With encryption, sizes still tell how well a value compresses.
    :arg compress_above: Values up to this size, in serialised bytes, stay uncompressed. So do
        values that would not get smaller.
    :arg inflate_limit: The largest value, in serialised bytes, that is compressed on writing and
        decompressed on reading: a few forged bytes must not fill the memory.
    :arg encryption_keys: Key by key ID: 16, 24 or 32 random bytes, for AES-GCM (extra
        ``crypto``). A reader uses all of them.
    :arg encrypt_with: ID of the key for writing. Change to a new key before one has encrypted 2**32
        values.
    :arg accept_unencrypted: Whether values that aren't encrypted are read, while encryption is
        brought in or, without ``encrypt_with``, taken out.
    :arg signing_keys: Key by key ID: 16 random bytes or more, for HMAC-SHA256. A reader
        uses all of them.
    :arg sign_with: ID of the key for writing.
    :arg accept_unsigned: Whether values that aren't signed are read, while signing is brought in
        or, without ``sign_with``, taken out. Meanwhile a forger need only leave the signature out.
    :arg on_error: Gets each error before it is raised: the engine may lose it on its way.
    :arg pickled: The steps whose pickles are read; ``None`` for all, as outside of flows.
    """

    allow_pickle: bool = True
    allow_imports: frozenset[str] = frozenset({"bytewax.operators", "bytewax.operators.windowing"})
    compression: Literal["zstd", "zlib"] | None = None
    compress_above: int = 1024
    inflate_limit: int = 64 * 1024 * 1024
    encryption_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False, hash=False)
    encrypt_with: str | None = None
    accept_unencrypted: bool = False
    signing_keys: Mapping[str, bytes] = field(default_factory=dict, repr=False, hash=False)
    sign_with: str | None = None
    accept_unsigned: bool = False
    on_error: Callable[[CodecError], None] | None = field(default=None, compare=False, repr=False)
    pickled: PickleRecord | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        _check_size("compress_above", self.compress_above, 0)
        _check_size("inflate_limit", self.inflate_limit, 1)
        self._check_keys("encryption_keys", "encrypt_with", "accept_unencrypted")
        self._check_keys("signing_keys", "sign_with", "accept_unsigned")
        _ = self._stages  # made now, so that unusable keys and missing packages are refused here

    def _check_keys(self, keys_field: str, with_field: str, accept_field: str) -> None:
        keys, key_id, accept = (
            getattr(self, name) for name in (keys_field, with_field, accept_field)
        )
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{keys_field} is of type {type(keys).__name__}", "give a dict")
        if type(accept) is not bool:
            raise ConfigError(f"{accept_field} is {accept!r}", "give True or False")
        if key_id is not None and key_id not in keys:
            raise ConfigError(
                f"{with_field} is {key_id!r} and {keys_field} has {[*keys] or 'no key'}",
                f"give {keys_field} that key",
            )
        if accept and not keys:
            raise ConfigError(
                f"{accept_field} is True and {keys_field} is empty", f"leave {accept_field} out"
            )
        if keys and key_id is None and not accept:
            raise ConfigError(
                f"{keys_field} has keys and {with_field} is None, so none is used for writing",
                f"set {with_field} to the ID of a key, or {accept_field}=True to write without",
            )
        object.__setattr__(self, keys_field, dict(keys))

    @classmethod
    def of_flow(
        cls,
        settings: RecoverySettings,
        on_error: Callable[[CodecError], None] | None = None,
    ) -> Codec:
        """Make the codec of a flow.

        :arg settings: How the flow's state is kept.
        :arg on_error: Gets each error before it is raised.
        :returns: The codec.
        :raises ConfigError: If a key can't be used, or a package is missing.
        """
        return cls(
            allow_pickle=settings.allow_pickle,
            allow_imports=cls.allow_imports | settings.allow_imports,
            compression=settings.compression,
            **settings.secrets.given,
            on_error=on_error,
            pickled=PickleRecord(),
        )

    @property
    def protects(self) -> bool:
        """Whether it encrypts or signs what it writes."""
        return self.encrypt_with is not None or self.sign_with is not None

    def bind(self, *, namespace: str, flow_id: str, step: str) -> StateCodec:
        """Make the codec of one step; any number of threads may use it.

        :arg namespace: Of the keys.
        :arg flow_id: Of the flow; empty outside of flows.
        :arg step: As the keys name it; empty outside of flows.
        :returns: The step's codec.
        """
        return StateCodec(self, self._packing, namespace=namespace, flow_id=flow_id, step=step)

    @cached_property
    def _packing(self) -> Packing:
        return Packing(
            UserClasses(allow_pickle=self.allow_pickle, allow_imports=self.allow_imports)
        )

    @cached_property
    def _stages(self) -> Stages:
        method, limit = self.compression, self.inflate_limit
        return Stages(
            compressor=None if method is None else Compressor(method, self.compress_above, limit),
            inflater=Inflater(limit),
            cipher=Cipher(self.encryption_keys) if self.encryption_keys else None,
            encrypt_with=(self.encrypt_with or "").encode(),
            accept_unencrypted=self.accept_unencrypted or not self.encryption_keys,
            signer=Signer(self.signing_keys) if self.signing_keys else None,
            sign_with=(self.sign_with or "").encode(),
            accept_unsigned=self.accept_unsigned or not self.signing_keys,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Only the fields: the cached properties can't be pickled.
        return {part.name: getattr(self, part.name) for part in fields(self)}


def _check_size(name: str, value: int, least: int) -> None:
    if type(value) is not int or not least <= value < 2**32:
        raise ConfigError(f"{name} is {value!r}", f"give a number of bytes from {least} to 4 GiB")


class StateCodec:
    """Encode and decode the states of one step; made by :meth:`Codec.bind`."""

    def __init__(
        self, codec: Codec, packing: Packing, *, namespace: str, flow_id: str, step: str
    ) -> None:
        self.codec = codec
        self.namespace = namespace
        self.flow_id = flow_id
        self.step = step
        self._packing = packing
        self._associated = AssociatedData(namespace, flow_id, step)
        self._stages = stages = codec._stages
        self._seal = seal_plain if stages.write_plain else partial(stages.seal, self._associated)
        unpackers = {MSGPACK: packing.unpack, MSGPACK_TUPLE: packing.unpack_tuple}
        # Readers for the most common envelopes; decode() handles all others.
        self._plain_readers = {
            head: (unpackers[kind], start)
            for head, (kind, start) in PLAIN_STARTS.items()
            if stages.read_plain
        }

    def encode(self, state_key: str | bytes, value: Any, deadline: int | None = None) -> bytes:
        """Encode a state.

        :arg state_key: Whose state it is.
        :arg value: Any value; it is neither changed nor kept.
        :arg deadline: When it expires, in milliseconds of the flow's time; ``None`` for never.
        :returns: Bytes for :meth:`decode` with the same key.
        :raises EncodeError: If it can't be encoded; names step, key, type and the path inside the
            value.
        :raises OverflowError: If the deadline is negative or beyond the year 10889.
        """
        try:
            if type(value) is tuple:
                payload = self._packing.pack_tuple(value)
                return self._seal(state_key, MSGPACK_TUPLE, payload, deadline)
            return self._seal(state_key, MSGPACK, self._packing.pack(value), deadline)
        except NotPackable as not_packable:
            value = self._packing.whole(value)
            if not self.codec.allow_pickle:
                raise self._not_packable_error(state_key, value, not_packable) from None
            reason = not_packable
        payload = self._pickle(state_key, value)
        self._note_pickle(value, reason)
        return self._seal(state_key, PICKLE, payload, deadline)

    def encode_all(
        self,
        states: Iterable[tuple[str, Any]],
        deadline: int | None = None,
        encode: Callable[[str, Any, int | None], bytes] | None = None,
    ) -> dict[str, bytes]:
        """Encode many states, such as the changes of an epoch in a shard.

        :arg states: State key and value; an item is taken when the one before is encoded.
        :arg deadline: Of all states, as in :meth:`encode`.
        :arg encode: Encodes states that are not flat; by default :meth:`encode`.
        :returns: State key to the bytes of :meth:`encode`.
        :raises EncodeError: As :meth:`encode`.
        """
        encode = encode or self.encode
        if self._stages.write_plain:
            return seal_plain_all(self._packing, states, deadline, encode)
        return {key: encode(key, value, deadline) for key, value in states}

    def decode(self, state_key: str | bytes, data: bytes) -> Any:
        """Decode a state.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :returns: A value equal to the encoded one, of the same types.
        :raises DecodeError: If the bytes are damaged, forged, another key's, from a newer version,
            a pickle that the settings forbid, or need a secret key that is not there or a class
            that is gone; names step and key.
        """
        plain = self._plain_readers.get(data[:2])
        if plain is not None and is_sound(key_bytes(state_key), data):
            unpack, start = plain
            try:
                return unpack(data[start:])
            except Exception:  # noqa: BLE001 - raised again below, where the key is named
                pass
        return self._decoded(state_key, self._open(state_key, data), self._packing)

    def _decoded(self, state_key: str | bytes, envelope: Envelope, packing: Packing) -> Any:
        try:
            return self._decode_payload(envelope, packing)
        except DecodeError as error:
            raise self._decode_error(state_key, error.message, error.hint) from None
        except Exception as error:
            what = f"its value can't be rebuilt: {type(error).__name__}: {error}"
            raise self._decode_error(
                state_key,
                what,
                "check that the classes in the value can be imported and have not changed",
            ) from error

    def decode_all(self, states: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
        """Decode many states, such as those of a restored shard.

        :arg states: State key to the bytes of :meth:`encode`.
        :returns: State key and value, one by one.
        :raises DecodeError: As :meth:`decode`.
        """
        readers = self._plain_readers
        for state_key, data in states.items():
            # A restart decodes a million states: the common kinds without a call in between.
            plain = readers.get(data[:2])
            if plain is not None and is_sound(state_key.encode(), data):
                unpack, start = plain
                try:
                    value = unpack(data[start:])
                except Exception:  # noqa: BLE001 - decode() raises it again, and names the key
                    value = self.decode(state_key, data)
            else:
                value = self.decode(state_key, data)
            yield state_key, value

    def reseal(self, state_key: str | bytes, data: bytes, into: StateCodec) -> bytes:
        """Seal again what this codec can read, for another codec, without building the value.

        Values that are encrypted or signed are bound to their namespace and keys, so they can't be
        copied to another namespace as bytes.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :arg into: The codec that will read it.
        :returns: Bytes for ``into.decode`` with the same state key.
        :raises DecodeError: As :meth:`decode`, but not for what is wrong inside the value.
        """
        envelope = self._open(state_key, data)
        return into._seal(state_key, envelope.codec, envelope.payload, envelope.deadline)

    def outdated(self, states: Mapping[str, bytes]) -> dict[str, bytes]:
        """Seal again the values that are protected by other keys than this codec writes with.

        Those include values without protection that should have it, and protected values that
        should no longer be. A start does it for state that the flow leaves idle: a running flow
        writes only changed state, so a rotated key would be needed for ever.

        :arg states: State key to the bytes of :meth:`encode`, each checked already.
        :returns: The values that were sealed again, with unchanged deadlines; most often none.
        :raises DecodeError: As :meth:`decode`, but not for what is wrong inside a value.
        """
        current = self._stages.encrypt_with, self._stages.sign_with
        if not any(current) and not any_protected(states.values()):
            return {}
        return {
            key: self.reseal(key, data, self)
            for key, data in states.items()
            if key_ids_of(data) != current
        }

    def require_readable(self, state_key: str | bytes, data: bytes) -> None:
        """Refuse a value that this codec can't or may not read, without building it.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :raises DecodeError: As :meth:`decode`, but not for what is wrong inside the value.
        """
        self._open(state_key, data)

    def require_sound(self, state_key: str | bytes, data: bytes) -> None:
        """Refuse a value that no reader could rebuild, without rebuilding it.

        Everything but users' classes is read, with stand-ins in their places; a pickle is not.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :raises DecodeError: As :meth:`decode`, but not for what a class lacks, or inside a pickle.
        """
        envelope = self._open(state_key, data)
        if envelope.codec != PICKLE:
            self._decoded(state_key, envelope, _CHECKS_ONLY)

    def reseal_until(self, state_key: str | bytes, data: bytes, deadline: int | None) -> bytes:
        """Seal a value again with another deadline, without building it.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :arg deadline: As in :meth:`encode`.
        :returns: The bytes that :meth:`encode` would give for the same value with this deadline.
        :raises DecodeError: As :meth:`decode`, but not for what is wrong inside the value.
        """
        envelope = self._open(state_key, data)
        return self._seal(state_key, envelope.codec, envelope.payload, deadline)

    def _open(self, state_key: str | bytes, data: bytes) -> Envelope:
        try:
            envelope = open_envelope(state_key, data)
        except DecodeError as error:
            message = f"step {self.step!r}: {error.message}" if self.step else error.message
            raise self.told(DecodeError(message, error.hint)) from None
        try:
            return self._stages.open(self._associated, state_key, envelope, data)
        except DecodeError as error:
            raise self._decode_error(state_key, error.message, error.hint) from None

    def _decode_payload(self, envelope: Envelope, packing: Packing) -> Any:
        if envelope.codec == MSGPACK:
            return packing.unpack(envelope.payload)
        if envelope.codec == MSGPACK_TUPLE:
            return packing.unpack_tuple(envelope.payload)
        if not self.codec.allow_pickle:
            raise DecodeError(
                "its value is a pickle, and allow_pickle is False",
                "run the flow with allow_pickle=True, or delete the key",
            )
        if self.codec.pickled is not None and self.step not in self.codec.pickled:
            raise DecodeError(
                "its value is a pickle, and the flow has never written one in this step",
                "something else wrote it, so it is not loaded: restore Redis from a backup",
            )
        return pickle.loads(envelope.payload)

    @property
    def has_pickled(self) -> bool:
        """Whether the flow has ever pickled state of this step, also in an earlier run."""
        return self.codec.pickled is not None and self.step in self.codec.pickled

    def _note_pickle(self, value: Any, reason: NotPackable) -> None:
        record = self.codec.pickled
        if record is not None and record.add(self.step):
            kind = type(reason.node)
            logger.warning(
                "step %r pickles its state from now on: %s of type %s.%s %s; with --no-pickle "
                "it is refused instead, and no pickle is ever loaded",
                self.step,
                path_to(value, reason.node),
                kind.__module__,
                kind.__qualname__,
                reason.reason,
            )

    def _pickle(self, state_key: str | bytes, value: Any) -> bytes:
        try:
            return pickle.dumps(value, _PICKLE_PROTOCOL)
        except Exception as error:
            # A value that is too deep fails at every part that is too deep, too: name the whole.
            too_deep = isinstance(error, RecursionError)
            path, part = ("value", value) if too_deep else innermost_failure(value, _cant_pickle)
            raise self._encode_error(
                state_key, path, part, f"can't be pickled: {type(error).__name__}: {error}",
                "keep only values that can be copied in the state, and make the others from them",
            ) from error  # fmt: skip

    def _not_packable_error(
        self, state_key: str | bytes, value: Any, not_packable: NotPackable
    ) -> EncodeError:
        path = path_to(value, not_packable.node)
        return self._encode_error(
            state_key,
            path,
            value if path == "value" else not_packable.node,
            f"{not_packable.reason}, which needs pickle, and allow_pickle is False",
            "use built-in types, dataclasses, Enums and namedtuples, each mutable value once",
        )

    def require_fit(self, state_key: str, data: bytes) -> None:
        """Refuse a state that is larger than a value in Redis can be.

        :arg data: The state, encoded.
        :raises EncodeError: If it is; names the step and the key.
        """
        if len(data) > MOST_STATE_BYTES:
            raise self.told(
                EncodeError(
                    f"{self._named(state_key)}: the state has {len(data):,} bytes when encoded, "
                    f"and Redis takes {MOST_STATE_BYTES:,} at most",
                    "keep less in one state, or split it over several keys",
                )
            )

    def _encode_error(
        self, state_key: str | bytes, path: str, part: Any, what: str, hint: str
    ) -> EncodeError:
        kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
        message = f"{self._named(state_key)}: {path} of type {kind} {what}"
        return self.told(EncodeError(message, hint))

    def _decode_error(self, state_key: str | bytes, what: str, hint: str) -> DecodeError:
        return self.told(DecodeError(f"{self._named(state_key)}: {what}", hint))

    def _named(self, state_key: str | bytes) -> str:
        step = f"step {self.step!r}, " if self.step else ""
        return f"{step}key {state_key!r}"

    def told(self, error: _Error) -> _Error:
        """Tell an error to the flow, which the engine would hide, and give it back."""
        if self.codec.on_error is not None:
            self.codec.on_error(error)
        return error


def _cant_pickle(value: Any) -> bool:
    try:
        pickle.dumps(value, _PICKLE_PROTOCOL)
    except Exception:  # noqa: BLE001 - any failure is what this looks for
        return True
    return False
