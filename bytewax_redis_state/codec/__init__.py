"""Values as bytes and back."""

from bytewax_redis_state.codec.codec import Codec, StateCodec

__all__ = ["Codec", "StateCodec"]
