"""Users' classes in msgpack: which may be rebuilt, and how they are named and found again.

Dataclasses, Enum members and namedtuples are written as the name of their class and their fields.
A class takes part if copying its fields copies the instance: it defines no pickle hook, no
``__del__``, and its module and qualified name lead back to it. Every other class is foreign.

Rebuilding calls ``object.__new__`` and sets fields (dataclass), looks a member up by its name
(Enum), or calls ``tuple.__new__`` (namedtuple). It never runs ``__init__``, ``__post_init__``,
``__new__`` or ``__reduce__`` of the class.

A class is looked for in modules that are loaded already, which those of a running flow are. Where
its module is not loaded, it is imported if the settings allow pickle (which could import it anyway)
or list the module; otherwise reading fails. Looking up a name runs no module ``__getattr__``.
"""

from __future__ import annotations

import copyreg
import importlib
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from bytewax_redis_state.codec.type_format import NotPackable, Pack, TypeFormat, Unpack, no_parts
from bytewax_redis_state.errors import DecodeError

__all__ = ["DATACLASS", "ENUM", "NAMEDTUPLE", "UserClasses", "format_of"]

ENUM, DATACLASS, NAMEDTUPLE = 32, 33, 34

# Never reorder or remove: the position is what a stored value holds.
_KNOWN = (
    ("bytewax.operators.windowing", "_WindowSnapshot"),
    ("bytewax.operators.windowing", "WindowMetadata"),
    ("bytewax.operators.windowing", "_EventClockState"),
    ("bytewax.operators.windowing", "_SlidingWindowerState"),
    ("bytewax.operators.windowing", "_SessionWindowerState"),
    ("bytewax.operators", "_JoinState"),
    ("bytewax.operators", "_CollectState"),
)

_HOOKS = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__setstate__",
    "__del__",
)


def _name_of(cls: type) -> bytes | None:
    known = (cls.__module__, cls.__qualname__)
    name = bytes([_KNOWN.index(known)]) if known in _KNOWN else ":".join(known).encode()
    return bytes([len(name)]) + name if len(name) < 256 else None


def _find(module: object, qualname: str) -> object:
    found = module
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found


def _has_hooks(cls: type) -> bool:
    if cls in copyreg.dispatch_table:
        return True
    own = (getattr(cls, name, None) for name in _HOOKS)
    plain = (getattr(object, name, None) for name in _HOOKS)
    # The hooks that dataclasses gives to frozen classes with slots copy the fields, as we do.
    return any(
        a is not b and getattr(a, "__module__", "") != "dataclasses"
        for a, b in zip(own, plain, strict=True)
    )


def _slots_of(cls: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        names += (slots,) if isinstance(slots, str) else slots
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _dataclass_fields(cls: type) -> Callable[[Any], dict[str, Any]] | None:
    slots = _slots_of(cls)
    if not slots:
        return lambda value: value.__dict__
    if getattr(cls, "__dictoffset__", 0) or any(name.startswith("__") for name in slots):
        return None

    def fields(value: Any) -> dict[str, Any]:
        try:
            return {name: getattr(value, name) for name in slots}
        except AttributeError as error:
            raise NotPackable(value, f"has an empty slot ({error})") from None

    return fields


def _dataclass_format(cls: type, name: bytes) -> TypeFormat | None:
    fields = _dataclass_fields(cls)
    if fields is None:
        return None
    try:
        object.__new__(cls)
    except TypeError:
        return None  # abstract, or built on a type with a layout of its own
    frozen: bool = cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return TypeFormat(
        DATACLASS,
        lambda value, pack: name + pack(fields(value)),
        lambda value: fields(value).values(),
        mutable=not frozen,
    )


def _enum_format(cls: Any, name: bytes) -> TypeFormat:
    def write(member: Any, _: Pack) -> bytes:
        if cls._member_map_.get(member._name_) is not member:
            raise NotPackable(member, "is a combination of flags without a name")
        return name + str(member._name_).encode()

    return TypeFormat(ENUM, write, no_parts)


def _is_namedtuple(cls: type) -> bool:
    fields = getattr(cls, "_fields", None)
    return issubclass(cls, tuple) and isinstance(fields, tuple) and not cls.__dictoffset__


def _namedtuple_format(cls: Any, name: bytes) -> TypeFormat:
    def write(value: tuple[Any, ...], pack: Pack) -> bytes:
        if len(value) != len(cls._fields):
            raise NotPackable(value, f"has {len(value)} values for {len(cls._fields)} fields")
        return name + pack(list(value))

    return TypeFormat(NAMEDTUPLE, write, iter)


def format_of(cls: type) -> TypeFormat | None:
    """Give the format of a user's class; ``None`` where the class is foreign."""
    name = _name_of(cls)
    if name is None or _find(sys.modules.get(cls.__module__), cls.__qualname__) is not cls:
        return None
    if issubclass(cls, Enum):
        return _enum_format(cls, name)
    if _has_hooks(cls):
        return None
    if is_dataclass(cls):
        return _dataclass_format(cls, name)
    return _namedtuple_format(cls, name) if _is_namedtuple(cls) else None


class UserClasses:
    """Find the classes of stored values, and rebuild their instances.

    :arg import_any: Whether modules that are not loaded may be imported on reading.
    :arg allow_imports: Modules that may be imported on reading in any case.
    """

    def __init__(self, *, import_any: bool, allow_imports: frozenset[str]) -> None:
        self._import_any = import_any
        self._allow_imports = allow_imports
        self._found: dict[tuple[int, bytes], tuple[Any, tuple[str, ...]]] = {}

    def read_enum(self, data: bytes, _: Unpack) -> Any:
        """Read an Enum member: look it up by its name."""
        cls, _slots, name = self._split(ENUM, data)
        return cls._member_map_[name.decode()]

    def read_dataclass(self, data: bytes, unpack: Unpack) -> Any:
        """Rebuild a dataclass instance from its fields."""
        cls, slots, state = self._split(DATACLASS, data)
        instance = object.__new__(cls)
        fields = unpack(state)
        if not slots:
            instance.__dict__.update(fields)
            return instance
        if fields.keys() - set(slots):
            # Any other name could be a property, and setting that would run the class's code.
            raise DecodeError(f"{cls.__qualname__} has no slot {min(fields.keys() - set(slots))!r}")
        for name, value in fields.items():
            object.__setattr__(instance, name, value)
        return instance

    def read_namedtuple(self, data: bytes, unpack: Unpack) -> Any:
        """Rebuild a namedtuple; fields that were added to the class since get their default."""
        cls, _slots, state = self._split(NAMEDTUPLE, data)
        values = unpack(state)
        missing = cls._fields[len(values) :]
        values += [cls._field_defaults[name] for name in missing]
        if len(values) > len(cls._fields):
            raise DecodeError(
                f"{cls.__qualname__} has {len(cls._fields)} fields, not {len(values)}"
            )
        return tuple.__new__(cls, values)

    def find(self, module_name: str, qualname: str) -> Any:
        """Find a class of this name.

        :raises DecodeError: If its module is not loaded, and the settings forbid to import it.
        """
        return _find(self._module(module_name, qualname), qualname)

    def _split(self, code: int, data: bytes) -> tuple[Any, tuple[str, ...], bytes]:
        end = 1 + data[0]
        name = data[1:end]
        found = self._found.get((code, name))
        if found is None:
            cls = self._resolve(code, name)
            found = self._found[code, name] = cls, _slots_of(cls)
        return *found, data[end:]

    def _resolve(self, code: int, name: bytes) -> type:
        module_name, qualname = self._names(name)
        cls = _find(self._module(module_name, qualname), qualname)
        if not isinstance(cls, type):
            raise DecodeError(
                f"there is no class {module_name}.{qualname}", "was it renamed or moved?"
            )
        same = (cls.__module__, cls.__qualname__) == (module_name, qualname)
        type_format = format_of(cls) if same else None
        if type_format is None or type_format.code != code:
            raise DecodeError(f"{module_name}.{qualname} is not a class that may be rebuilt")
        return cls

    @staticmethod
    def _names(name: bytes) -> tuple[str, str]:
        if len(name) > 1:
            module_name, _, qualname = name.decode().partition(":")
            return module_name, qualname
        if name[0] >= len(_KNOWN):
            raise DecodeError(
                f"class number {name[0]}: written by a newer version",
                "upgrade bytewax-redis-state to read it",
            )
        return _KNOWN[name[0]]

    def _module(self, name: str, qualname: str) -> object:
        if name in sys.modules:
            return sys.modules[name]
        if not (self._import_any or name in self._allow_imports):
            raise DecodeError(
                f"the value needs {name}.{qualname}, and module {name!r} is neither loaded nor "
                "in allow_imports",
                f"import {name} first, or add it to allow_imports",
            )
        return importlib.import_module(name)
