"""Values as bytes and back.

==================  ======================================================================
file                noun
==================  ======================================================================
codec.py            the configuration, and the codec of one step
batch.py            the changes of an epoch to bytes at once
packing.py          values to msgpack, exactly
exactness.py        the check that msgpack can hold a value exactly
type_format.py      how the values of a type are written
extension_types.py  built-in types for which msgpack has no type
user_classes.py     dataclasses, Enums and namedtuples of the user
enums.py            members of Enums, by value and by name
changed_classes.py  classes that changed since, rebuilt as a pickle would
stand_ins.py        stand-ins for users' classes, where a value is only checked
compact_state.py    windows and joins as arrays of numbers and values
pickle_record.py    the steps whose state the flow itself has ever pickled
envelope.py         the bytes around a payload: header, check sum, deadline
stages.py           compression, encryption and signature, in their order
compression.py      zstd and zlib
encryption.py       AES-GCM
signing.py          HMAC-SHA256
keyring.py          secret keys by ID
delta.py            the changes of one cell in one epoch, as bytes
paths.py            paths inside a value, for errors
==================  ======================================================================
"""

from bytewax_redis_state.codec.codec import Codec, StateCodec

__all__ = ["Codec", "StateCodec"]
