"""Users' classes in msgpack: which may be rebuilt, and how they are named and found again.

Dataclasses, Enum members and namedtuples are written as the name of their class and their fields.
A class takes part if copying its fields copies the instance: it defines no pickle hook, no
``__del__``, and its module and qualified name lead back to it. Every other class is foreign.

=====  ======================  ==================================================================
type   value                   data, after length and name of the class
=====  ======================  ==================================================================
32     Enum member             name; only read
33     dataclass               map of its attributes
34     namedtuple              array of its values
35     Enum member             array of its name and, if that is simple, its value
36     dataclass with slots    map of its slots
37     the same, frozen        map of its slots; its pickle would hold the bare values
=====  ======================  ==================================================================

Rebuilding calls ``object.__new__`` and sets attributes or slots by their own descriptors
(dataclass), looks a member up (Enum), or calls ``tuple.__new__`` (namedtuple). It never runs
``__init__``, ``__post_init__``, ``__new__`` or ``__reduce__`` of the class. A class that changed
since, so that this is no longer possible, is rebuilt as a pickle would (:mod:`.changed_classes`)
where pickle is allowed, and refused where it is not.

A class is looked for in modules that are loaded already, which those of a running flow are, under
the name that it had: an alias will do, or an import into the old module. Where its module is not
loaded, it is imported if the settings allow pickle (which could import it anyway) or list the
module; otherwise reading fails. A module's ``__getattr__`` is asked only where pickle is allowed.
"""

from __future__ import annotations

import copyreg
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from bytewax_redis_state.codec.changed_classes import (
    is_of_the_library,
    rebuild_attributes,
    rebuild_slots,
    rebuild_tuple,
)
from bytewax_redis_state.codec.enums import (
    ENUM,
    NAMED_ENUM,
    enum_format,
    find_member,
    member_named,
)
from bytewax_redis_state.codec.type_format import (
    NotPackable,
    Pack,
    TypeFormat,
    Unpack,
    read_list,
    wrong_type,
)
from bytewax_redis_state.errors import DecodeError

__all__ = [
    "DATACLASS",
    "DATACLASSES",
    "ENUM",
    "NAMEDTUPLE",
    "NAMED_ENUM",
    "UserClasses",
    "format_of",
    "names_of",
]

DATACLASS, NAMEDTUPLE, SLOTTED, FROZEN_SLOTTED = 33, 34, 36, 37
DATACLASSES = (DATACLASS, SLOTTED, FROZEN_SLOTTED)
"""Extension types of dataclasses: how the pickle of each would hold its fields differs."""

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
    """Find a name in a module, and run no code: neither ``__getattr__`` nor a descriptor."""
    found = module
    for part in qualname.split("."):
        if issubclass(type(found), type):
            spaces = [base.__dict__ for base in type.__dict__["__mro__"].__get__(found)]
        elif found is module or issubclass(type(found), ModuleType):
            spaces = [getattr(found, "__dict__", {})]
        else:
            return None
        found = next((space[part] for space in spaces if part in space), None)
    return found


def _ask_for(module: object, qualname: str) -> object:
    """Find a name in a module as a pickle does."""
    found = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _hook_of(cls: type) -> str | None:
    """Give the name of what keeps a class from being copied by its fields; ``None`` for nothing."""
    if cls in copyreg.dispatch_table:
        return "a function in copyreg's dispatch_table"
    for name in _HOOKS:
        own, plain = getattr(cls, name, None), getattr(object, name, None)
        # The hooks that dataclasses gives to frozen classes with slots copy the fields, as we do.
        if own is not plain and getattr(own, "__module__", "") != "dataclasses":
            return name
    return None


def _slots_of(cls: type) -> dict[str, object]:
    """Give the slots of a class, each with what its class holds under the name."""
    slots: dict[str, object] = {}
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            if name not in ("__dict__", "__weakref__"):
                slots.setdefault(name, base.__dict__.get(name))
    return slots


def _hidden(cls: type, name: str) -> bool:
    """Whether an attribute of a subclass, such as a property, hides a slot."""
    found = next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)
    return type(found) is not MemberDescriptorType


def _has_bare_dict(cls: type) -> bool:
    """Whether ``__dict__`` of an instance is the instance's own, and reading it runs no code."""
    found = next((c.__dict__["__dict__"] for c in cls.__mro__ if "__dict__" in c.__dict__), None)
    return type(found) is GetSetDescriptorType and (
        cls.__getattribute__ is object.__getattribute__  # type: ignore[comparison-overlap]
    )


def _dataclass_fields(cls: type) -> Callable[[Any], dict[str, Any]] | None:
    slots = _slots_of(cls)
    if not slots:
        return (lambda value: value.__dict__) if _has_bare_dict(cls) else None
    if getattr(cls, "__dictoffset__", 0) or any(
        name.startswith("__") or _hidden(cls, name) for name in slots
    ):
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
    code = DATACLASS
    if _slots_of(cls):
        state = getattr(cls, "__getstate__", None)
        code = FROZEN_SLOTTED if getattr(state, "__module__", "") == "dataclasses" else SLOTTED
    return TypeFormat(
        code,
        lambda value, pack: name + pack(fields(value)),
        lambda value: fields(value).values(),
        mutable=not frozen,
    )


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
        return enum_format(cls, name)
    if _hook_of(cls):
        return None
    if is_dataclass(cls):
        return _dataclass_format(cls, name)
    return _namedtuple_format(cls, name) if _is_namedtuple(cls) else None


def names_of(name: bytes) -> tuple[str, str]:
    """Read the module and the qualified name of a class in the data of an extension.

    :raises DecodeError: If a newer version wrote it.
    """
    if len(name) > 1:
        module_name, _, qualname = name.decode().partition(":")
        return module_name, qualname
    if name[0] >= len(_KNOWN):
        raise DecodeError(
            f"class number {name[0]}: written by a newer version",
            "upgrade bytewax-redis-state to read it",
        )
    return _KNOWN[name[0]]


_Rebuild = Callable[[Any], Any]
_MOST_NAMES = 4096  # so that forged names, which may lead to one class in many ways, fill no memory
_FAMILY = {
    NAMED_ENUM: "Enum",
    ENUM: "Enum",
    NAMEDTUPLE: "namedtuple",
    **dict.fromkeys(DATACLASSES, "dataclass"),
}


class UserClasses:
    """Find the classes of stored values, and rebuild their instances.

    :arg allow_pickle: Whether modules that are not loaded may be imported on reading, and a class
        that changed may be rebuilt by its own methods.
    :arg allow_imports: Modules that may be imported on reading in any case.
    """

    def __init__(self, *, allow_pickle: bool, allow_imports: frozenset[str]) -> None:
        self._allow_pickle = allow_pickle
        self._allow_imports = allow_imports
        self._rebuilds: dict[tuple[int, bytes], _Rebuild] = {}
        self._members: dict[bytes, Any] = {}
        self.readers: Mapping[int, Callable[[bytes, Unpack], Any]] = {
            NAMED_ENUM: self._read_named_enum,
            ENUM: self._read_enum,
            NAMEDTUPLE: self._read_namedtuple,
            **{code: partial(self._read_dataclass, code) for code in DATACLASSES},
        }

    def find(self, module_name: str, qualname: str) -> Any:
        """Find a class of this name.

        :raises DecodeError: If its module is not loaded, and the settings forbid to import it.
        """
        module = self._module(module_name, qualname)
        found = _find(module, qualname)
        return _ask_for(module, qualname) if found is None and self._allow_pickle else found

    def _read_named_enum(self, data: bytes, _: Unpack) -> Any:
        rebuild, rest = self._split(NAMED_ENUM, data)
        return rebuild(rest.decode())

    def _read_enum(self, data: bytes, unpack: Unpack) -> Any:
        member = self._members.get(data)
        if member is None:
            rebuild, rest = self._split(ENUM, data)
            parts = read_list(rest, unpack, "an Enum member")
            member = rebuild(parts)
            # Only a member that is found as it was written: no data that a class was asked about.
            if member._name_ == parts[0] and len(self._members) < _MOST_NAMES:
                self._members[data] = member
        return member

    def _read_namedtuple(self, data: bytes, unpack: Unpack) -> Any:
        rebuild, rest = self._split(NAMEDTUPLE, data)
        values = unpack(rest)
        if type(values) is not list:
            raise wrong_type("a namedtuple", "a list", values)
        return rebuild(values)

    def _read_dataclass(self, code: int, data: bytes, unpack: Unpack) -> Any:
        rebuild, rest = self._split(code, data)
        fields = unpack(rest)
        if type(fields) is not dict:
            raise wrong_type("a dataclass", "a dict", fields)
        return rebuild(fields)

    def _split(self, code: int, data: bytes) -> tuple[_Rebuild, bytes]:
        end = 1 + data[0]
        name = data[1:end]
        rebuild = self._rebuilds.get((code, name))
        if rebuild is None:
            rebuild = self._resolve(code, name)
            if len(self._rebuilds) < _MOST_NAMES:
                self._rebuilds[code, name] = rebuild
        return rebuild, data[end:]

    def _resolve(self, code: int, name: bytes) -> _Rebuild:
        module_name, qualname = names_of(name)
        cls = self.find(module_name, qualname)
        if not issubclass(type(cls), type):
            raise DecodeError(
                f"there is no class {module_name}.{qualname}",
                "was it renamed or moved? Leave an alias or an import of it where it was",
            )
        type_format = format_of(cls)
        if type_format is not None and _FAMILY[type_format.code] == _FAMILY[code]:
            return self._rebuild_of(cls, code)
        if issubclass(cls, Enum) or _FAMILY[code] == "Enum" or is_of_the_library(cls):
            raise DecodeError(
                f"{module_name}.{qualname} is not a class that may be rebuilt: a value of it was "
                f"written as {_FAMILY[code]}",
                f"let the name stand for the {_FAMILY[code]} again, or delete the key",
            )
        if not self._allow_pickle:
            raise _needs_pickle(cls, f"{module_name}.{qualname}", _FAMILY[code])
        return _changed(cls, code)

    def _rebuild_of(self, cls: Any, code: int) -> _Rebuild:
        if code == NAMED_ENUM:
            return partial(member_named, cls)
        if code == ENUM:
            return partial(find_member, cls, ask_class=self._allow_pickle)
        if code == NAMEDTUPLE:
            return _namedtuple_maker(cls, ask_class=self._allow_pickle)
        slots = _slots_of(cls)
        return _slot_setter(cls, slots) if slots else _attribute_setter(cls)

    def _module(self, name: str, qualname: str) -> object:
        if name in sys.modules:
            return sys.modules[name]
        if not (self._allow_pickle or name in self._allow_imports):
            raise DecodeError(
                f"the value needs {name}.{qualname}, and module {name!r} is neither loaded nor "
                "in allow_imports",
                f"import {name} first, or add it to allow_imports",
            )
        return importlib.import_module(name)


def _needs_pickle(cls: type, name: str, family: str) -> DecodeError:
    hook = _hook_of(cls)
    what = f"has {hook} now" if hook else f"is no longer a {family} that fields alone make up"
    return DecodeError(
        f"{name} is not a class that may be rebuilt without its own methods: it {what}, and "
        "allow_pickle is False",
        f"run without --no-pickle (allow_pickle=True), or make it a plain {family} again",
    )


def _changed(cls: type, code: int) -> _Rebuild:
    if code == NAMEDTUPLE:
        return partial(rebuild_tuple, cls)
    if code == DATACLASS:
        return partial(rebuild_attributes, cls)
    return partial(rebuild_slots, cls, as_list=code == FROZEN_SLOTTED)


def _attribute_setter(cls: type) -> _Rebuild:
    new = object.__new__

    def rebuild(fields: dict[str, Any]) -> Any:
        instance: Any = new(cls)
        instance.__dict__.update(fields)
        return instance

    return rebuild


def _slot_setter(cls: type, slots: Mapping[str, Any]) -> _Rebuild:
    new = object.__new__
    # Not setattr: a property of a subclass could hide the slot, and run with forged fields.
    setters = {name: descriptor.__set__ for name, descriptor in slots.items()}

    def rebuild(fields: dict[str, Any]) -> Any:
        instance: Any = new(cls)
        for name, value in fields.items():
            if name not in setters:
                raise DecodeError(
                    f"{cls.__module__}.{cls.__qualname__} has no slot {name!r}",
                    "give the class the slot again, or delete the key",
                )
            setters[name](instance, value)
        return instance

    return rebuild


def _namedtuple_maker(cls: Any, *, ask_class: bool) -> _Rebuild:
    new, count = tuple.__new__, len(cls._fields)

    def rebuild(values: list[Any]) -> Any:
        if len(values) == count:
            return new(cls, values)
        return _rebuild_namedtuple(cls, values, ask_class=ask_class)

    return rebuild


def _rebuild_namedtuple(cls: Any, values: list[Any], *, ask_class: bool) -> Any:
    """Rebuild a namedtuple; fields that were added to the class since get their default."""
    missing = cls._fields[len(values) :]
    if len(values) > len(cls._fields):
        raise DecodeError(
            f"{cls.__module__}.{cls.__qualname__} has {len(cls._fields)} fields, not {len(values)}",
            "give the class its fields again, or delete the key",
        )
    if not all(name in cls._field_defaults for name in missing):
        if ask_class:
            return rebuild_tuple(cls, values)
        raise DecodeError(
            f"{cls.__module__}.{cls.__qualname__} has the field {missing[0]!r} now, which the "
            "value lacks, and no default for it",
            "give the field a default; a __new__ of the class is asked where allow_pickle is True",
        )
    values += [cls._field_defaults[name] for name in missing]
    return tuple.__new__(cls, values)
