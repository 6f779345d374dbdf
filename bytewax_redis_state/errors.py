"""The exceptions of this package: one tree, and each says what to do next.

    StateError
    ├── ConfigError            the set-up is wrong: an option, a URL, the environment
    ├── ServerError            Redis can't be used as it is
    │   ├── ServerUnavailableError   not reachable now; trying again may help
    │   ├── ServerAccessError        a command the user may not run, or the next:
    │   │   └── ServerLoginError           user or password are refused; they may be rotating
    │   └── ServerUnfitError         its version, policy or role rules it out
    ├── CodecError             a value can't become bytes, or bytes can't become a value
    │   ├── EncodeError
    │   └── DecodeError
    ├── FlowError              the flow and what Redis holds of it don't fit together
    │   ├── FlowRunningError         another execution owns the flow
    │   ├── JoinTimeoutError         a process of the cluster never came
    │   ├── StepMissingError         state of a step that the flow no longer has
    │   ├── PartitionMissingError    state of a source or sink partition no longer listed
    │   └── FormatError              written by a newer version, or with other settings
    ├── StateLostError         Redis lost writes that it had acknowledged
    ├── StateExpiredError      a flow stood still for so long that Redis dropped keys
    ├── FencedError            another execution took the flow over
    ├── ReplicatorError        the replicator can't go on, or can't be kept alive
    ├── ScratchError           the scratch folder can't hold the outbox
    ├── StockStoreError        a recovery directory of stock Bytewax can't be read
    │   └── StockStoreInUseError     a flow is running on it; stop that first
    ├── ArgumentError          a key, a TTL or another argument that can't be right
    ├── UnknownOutcomeError    a write may or may not have been carried out
    ├── NotACounterError       what is at a key can't be counted up
    ├── ConflictError          what a transaction read has changed since
    ├── LockError              a lock can't be had or kept
    │   ├── LockHeldError            somebody else held it for as long as we would wait
    │   └── LockLostError            it ran out, or was taken over, before it was given back
    └── CheckpointError        a checkpoint of a namespace can't be taken or restored
        ├── CheckpointDamagedError   its file is cut off or altered
        ├── NamespaceNotEmptyError   the namespace to restore into holds keys
        └── RestoreUnfinishedError   a restore into it was begun and has not been finished

Whether to try again, whether data is bad, whether the set-up is wrong: the class answers.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CheckpointDamagedError",
    "CheckpointError",
    "CodecError",
    "ConfigError",
    "ConflictError",
    "DecodeError",
    "EncodeError",
    "FencedError",
    "FlowError",
    "FlowRunningError",
    "FormatError",
    "JoinTimeoutError",
    "LockError",
    "LockHeldError",
    "LockLostError",
    "NamespaceNotEmptyError",
    "NotACounterError",
    "PartitionMissingError",
    "ReplicatorError",
    "RestoreUnfinishedError",
    "ScratchError",
    "ServerAccessError",
    "ServerError",
    "ServerLoginError",
    "ServerUnavailableError",
    "ServerUnfitError",
    "StateError",
    "StateExpiredError",
    "StateLostError",
    "StepMissingError",
    "StockStoreError",
    "StockStoreInUseError",
    "UnknownOutcomeError",
]


class StateError(Exception):
    """Base of all errors of this package.

    :arg message: What is wrong; names the thing and the value. One line.
    :arg hint: What to do next. One line, may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(StateError):
    """The set-up is wrong: an option, a URL or the environment."""


class ServerError(StateError):
    """Redis can't be used as it is."""


class ServerUnavailableError(ServerError):
    """Redis can't be reached now, or refuses work for now; trying again may help."""


class ServerAccessError(ServerError):
    """Redis wants other credentials, or the user may not run a command."""


class ServerLoginError(ServerAccessError, ServerUnavailableError):
    """Redis refuses user or password; where they are changing, trying again may help."""


class ServerUnfitError(ServerError):
    """The server's version, eviction policy or role rules it out."""


class CodecError(StateError):
    """A value can't become bytes, or bytes can't become a value."""


class EncodeError(CodecError):
    """A value can't be encoded; the message names its type and the path to it."""


class DecodeError(CodecError):
    """Bytes are damaged, foreign, or of a kind that the settings forbid."""


class FlowError(StateError):
    """The flow and what Redis holds of it don't fit together."""


class FlowRunningError(FlowError):
    """Another execution owns the flow."""


class JoinTimeoutError(FlowError):
    """A process of the cluster never came."""


class StepMissingError(FlowError):
    """Redis holds state of a step that the flow no longer has."""


class PartitionMissingError(FlowError):
    """Redis holds state of a source or sink partition that is no longer listed."""


class FormatError(FlowError):
    """The flow was written by a newer version or with settings that can't change."""


class StateLostError(StateError):
    """Redis lost writes that it had acknowledged."""


class StateExpiredError(StateError):
    """A flow stood still for longer than the downtime allowance, and Redis dropped keys."""


class FencedError(StateError):
    """Another execution took the flow over; this one may not write any more."""


class ReplicatorError(StateError):
    """The replicator can't go on, or can't be kept alive."""


class ScratchError(StateError):
    """The scratch folder can't hold the outbox."""


class StockStoreError(StateError):
    """A recovery directory of stock Bytewax is damaged, incomplete, or none at all."""


class StockStoreInUseError(StockStoreError):
    """A flow is running on the recovery directory, so what is read would not fit together."""


class ArgumentError(StateError):
    """A key, a TTL or another argument of an operation can't be right."""


class UnknownOutcomeError(StateError):
    """The connection broke after a write was sent: it may or may not have been carried out.

    Trying again by itself could carry it out twice, so look at what is stored first.
    """


class NotACounterError(StateError):
    """What is at a key can't be counted up: no plain integer, or it would leave 64 bits."""


class ConflictError(StateError):
    """What a transaction read has changed since, so nothing of it was written; try again."""


class LockError(StateError):
    """A lock can't be had or kept."""


class LockHeldError(LockError):
    """Somebody else held the lock for as long as we would wait."""


class LockLostError(LockError):
    """The lock ran out, or somebody else has it by now: what it protects may have changed."""


class CheckpointError(StateError):
    """A checkpoint of a namespace can't be taken or restored."""


class CheckpointDamagedError(CheckpointError):
    """A checkpoint file is cut off or altered; the message names where."""


class NamespaceNotEmptyError(CheckpointError):
    """The namespace to restore into holds keys, and nobody said what is to become of them."""


class RestoreUnfinishedError(CheckpointError):
    """A restore into this namespace was begun and not finished, or is still under way."""
