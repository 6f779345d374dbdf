"""The codec: a state of a step to the bytes that Redis holds, and back.

Values go to msgpack where it can hold them exactly, else to pickle where the settings allow it.

Invariant: ``decode(encode(value))`` equals ``value`` and has its types, all the way down; where
that can't be kept there is an error.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from bytewax_redis_state.codec.classes import Classes, Unfit
from bytewax_redis_state.codec.envelope import (
    MSGPACK,
    MSGPACK_TUPLE,
    OVERHEAD,
    PICKLE,
    PLAIN_HEAD,
    Envelope,
    is_sound,
    open_envelope,
    seal,
)
from bytewax_redis_state.codec.packing import Packing
from bytewax_redis_state.codec.paths import path_to, steepest
from bytewax_redis_state.errors import CodecError, DecodeError, EncodeError

__all__ = ["Codec", "StateCodec"]

_PICKLE_PROTOCOL = 5
_Error = TypeVar("_Error", bound=CodecError)


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Say how states become bytes.

    Without pickle, reading a value runs no code that the value chose: it rebuilds dataclasses,
    Enum members and namedtuples of modules that are loaded already or listed, by setting fields.
    A dict or set still hashes and compares its keys, as those classes define it.

    With pickle, whoever can write to Redis can run code in the readers, as with any pickle. So
    allowing it also allows importing any module that a value names.

    :arg allow_pickle: Whether values that msgpack can't hold are pickled, and pickles read.
    :arg allow_imports: Full names of modules that may be imported on reading where pickle is not
        allowed and they are not loaded.
    :arg on_error: Gets each error before it is raised: the engine may lose it on its way.
    """

    allow_pickle: bool = True
    allow_imports: frozenset[str] = frozenset({"bytewax.operators", "bytewax.operators.windowing"})
    on_error: Callable[[CodecError], None] | None = field(default=None, compare=False, repr=False)

    def bind(self, *, namespace: str, flow_id: str, step: str) -> StateCodec:
        """Make the codec of one step; any number of threads may use it.

        :arg namespace: Of the keys.
        :arg flow_id: Of the flow.
        :arg step: As the keys name it.
        :returns: The step's codec.
        """
        return StateCodec(self, self._packing, namespace=namespace, flow_id=flow_id, step=step)

    @cached_property
    def _packing(self) -> Packing:
        return Packing(Classes(import_any=self.allow_pickle, allow_imports=self.allow_imports))


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

    def encode(self, state_key: str, value: Any) -> bytes:
        """Encode a state.

        :arg state_key: Whose state it is.
        :arg value: Any value; not changed, and not kept.
        :returns: What :meth:`decode` takes with the same key.
        :raises EncodeError: If it can't be encoded; names step, key, type and the path inside.
        """
        try:
            if type(value) is tuple:
                return seal(state_key, MSGPACK_TUPLE, self._packing.pack_tuple(value))
            return seal(state_key, MSGPACK, self._packing.pack(value))
        except Unfit as unfit:
            if not self.codec.allow_pickle:
                raise self._unfit_error(state_key, value, unfit) from None
        return seal(state_key, PICKLE, self._pickle(state_key, value))

    def decode(self, state_key: str, data: bytes) -> Any:
        """Decode a state.

        :arg state_key: Whose state it is.
        :arg data: From :meth:`encode`.
        :returns: A value equal to the encoded one, of the same types.
        :raises DecodeError: If the bytes are damaged, another key's, from a newer version, a
            pickle that the settings forbid, or need a class that is gone; names step and key.
        """
        try:
            envelope = open_envelope(state_key, data)
        except DecodeError as error:
            message = f"step {self.step!r}: {error.message}"
            raise self._told(DecodeError(message, error.hint)) from None
        try:
            return self._decode_payload(envelope)
        except DecodeError as error:
            raise self._decode_error(state_key, error.message, error.hint) from None
        except Exception as error:
            what = f"can't be rebuilt: {type(error).__name__}: {error}"
            raise self._decode_error(
                state_key, what, "can the classes that it is made of be imported, unchanged?"
            ) from error

    def decode_all(self, states: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
        """Decode many states: a restart has a million of them.

        :arg states: State key to what :meth:`encode` gave for it.
        :returns: State key and value, one by one.
        :raises DecodeError: As :meth:`decode`.
        """
        unpack = self._packing.unpack
        for state_key, data in states.items():
            # The common kind without an object in between; decode() judges the rest.
            if data[:2] == PLAIN_HEAD and is_sound(state_key.encode(), data):
                try:
                    value = unpack(data[OVERHEAD:])
                except Exception:  # noqa: BLE001 - decode() meets it again, and names the key
                    value = self.decode(state_key, data)
            else:
                value = self.decode(state_key, data)
            yield state_key, value

    def _decode_payload(self, envelope: Envelope) -> Any:
        if envelope.codec == MSGPACK:
            return self._packing.unpack(envelope.payload)
        if envelope.codec == MSGPACK_TUPLE:
            return self._packing.unpack_tuple(envelope.payload)
        if not self.codec.allow_pickle:
            raise DecodeError(
                "it is a pickle, and allow_pickle is False",
                "run the flow with allow_pickle=True, or delete the key",
            )
        return pickle.loads(envelope.payload)

    def _pickle(self, state_key: str, value: Any) -> bytes:
        try:
            return pickle.dumps(value, _PICKLE_PROTOCOL)
        except Exception as error:
            # What is too deep fails at every part that is still too deep: no part is to blame.
            too_deep = isinstance(error, RecursionError)
            path, part = ("value", value) if too_deep else steepest(value, _cant_pickle)
            raise self._encode_error(
                state_key, path, part, f"can't be pickled: {type(error).__name__}: {error}",
                "keep what can be copied in the state, and make the rest anew",
            ) from error  # fmt: skip

    def _unfit_error(self, state_key: str, value: Any, unfit: Unfit) -> EncodeError:
        path = path_to(value, unfit.node)
        return self._encode_error(
            state_key,
            path,
            value if path == "value" else unfit.node,
            f"{unfit.reason}, which needs pickle, and allow_pickle is False",
            "use built-in types, dataclasses, Enums and namedtuples, each mutable value once",
        )

    def _encode_error(
        self, state_key: str, path: str, part: Any, what: str, hint: str
    ) -> EncodeError:
        kind = f"{type(part).__module__}.{type(part).__qualname__}".removeprefix("builtins.")
        message = f"step {self.step!r}, key {state_key!r}: {path} of type {kind} {what}"
        return self._told(EncodeError(message, hint))

    def _decode_error(self, state_key: str, what: str, hint: str) -> DecodeError:
        return self._told(DecodeError(f"step {self.step!r}, key {state_key!r}: {what}", hint))

    def _told(self, error: _Error) -> _Error:
        if self.codec.on_error is not None:
            self.codec.on_error(error)
        return error


def _cant_pickle(value: Any) -> bool:
    try:
        pickle.dumps(value, _PICKLE_PROTOCOL)
    except Exception:  # noqa: BLE001 - any failure is what this looks for
        return True
    return False
