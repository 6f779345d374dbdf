"""The exceptions of this package: one tree, and each says what to do next.

    StateError
    ├── ConfigError            the settings are wrong: an option, a URL, the environment
    ├── ServerError            Redis can't be used as it is
    │   ├── ServerUnavailableError   not reachable now; trying again may help
    │   ├── ServerAccessError        the user may not run a command, or:
    │   │   └── ServerLoginError           Redis refuses user or password; they may be rotating
    │   └── ServerUnfitError         its version, eviction policy or role does not allow it
    ├── CodecError             a value can't become bytes, or bytes can't become a value
    │   ├── EncodeError
    │   └── DecodeError
    ├── FlowError              the flow does not fit its state in Redis
    │   ├── FlowRunningError         another execution owns the flow
    │   ├── JoinTimeoutError         a process of the cluster did not start in time
    │   ├── StepMissingError         Redis holds state of a step that the flow no longer has
    │   ├── PartitionMissingError    … of a source or sink partition that is no longer listed
    │   └── FormatError              a newer version or other settings wrote the state
    ├── StateLostError         Redis lost writes that it had acknowledged
    ├── StateExpiredError      the flow was down for so long that Redis dropped keys
    ├── FencedError            another start took the flow over
    ├── ReplicatorError        the replicator fails again and again, or can't start
    ├── ScratchError           the scratch folder can't hold the outbox
    ├── StockStoreError        a recovery directory of stock Bytewax can't be read
    │   └── StockStoreInUseError     a flow is running on it; stop the flow first
    ├── ArgumentError          a key, a TTL or another argument is wrong
    ├── UnknownOutcomeError    a write may or may not have been carried out
    ├── NotACounterError       the value at a key is not a counter
    ├── ConflictError          a value that a transaction read has changed since
    ├── LockError              a lock can't be had or kept
    │   ├── LockHeldError            another holder kept it for the whole waiting time
    │   └── LockLostError            it expired, or another holder has it, before its release
    └── CheckpointError        a checkpoint of a namespace can't be taken or restored
        ├── CheckpointDamagedError   its file is cut off or altered
        ├── NamespaceNotEmptyError   the namespace to restore into holds keys
        └── RestoreUnfinishedError   a restore into it was started and has not finished

The class tells whether to try again, whether data is bad, and whether the settings are wrong.

Names and texts of others stand in errors: keys, steps, leases, answers of a server. :func:`shown`
makes each text one line that a terminal only shows; all errors go through it, and so do the lines
of reporters and of the doctor.
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


def shown(text: str) -> str:
    """Make a text one line without characters that a terminal would carry out.

    :arg text: May hold names and texts of others.
    :returns: The text, with control characters, line breaks, marks that turn the direction of
        writing, and everything else that is not printable as escapes of Python. A text that was
        shown before stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class StateError(Exception):
    """Base of all errors of this package.

    :arg message: The problem, with the thing and its value. Made one line by :func:`shown`.
    :arg hint: The next step for the user. As the message; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        message, hint = shown(message), shown(hint)
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(StateError):
    """The settings are wrong: an option, a URL or an environment variable."""


class ServerError(StateError):
    """Redis can't be used as it is."""


class ServerUnavailableError(ServerError):
    """Redis can't be reached now, or refuses work for now; trying again may help."""


class ServerAccessError(ServerError):
    """Redis refuses user or password, or the user may not run a command."""


# Both, because a refused login is the answer at a start, but may pass in a running flow, whose next
# token may be about to come.
class ServerLoginError(ServerAccessError, ServerUnavailableError):
    """Redis refuses user or password; if they are being rotated, trying again may help."""


class ServerUnfitError(ServerError):
    """The server can't keep state: its version, eviction policy or role does not allow it."""


class CodecError(StateError):
    """A value can't become bytes, or bytes can't become a value."""


class EncodeError(CodecError):
    """A value can't be encoded; the message names its type and the path to it."""


class DecodeError(CodecError):
    """Bytes are damaged, or come from another program, or the settings forbid their kind."""


class FlowError(StateError):
    """The flow does not fit its state in Redis."""


class FlowRunningError(FlowError):
    """Another execution of the flow is running."""


class JoinTimeoutError(FlowError):
    """A process of the cluster did not start in time."""


class StepMissingError(FlowError):
    """Redis holds Redis holds state of a step that the flow no longer has."""


class PartitionMissingError(FlowError):
    """Redis holds state of a source or sink partition that is no longer listed."""


class FormatError(FlowError):
    """A newer version wrote the state, or it was written with settings that can't be changed."""


class StateLostError(StateError):
    """Redis lost writes that it had acknowledged."""


class StateExpiredError(StateError):
    """The flow was down for longer than the downtime allowance, and Redis dropped keys."""


class FencedError(StateError):
    """Another start took the flow over; this execution may no longer write."""


class ReplicatorError(StateError):
    """The replicator fails again and again, or can't be started."""


class ScratchError(StateError):
    """The scratch folder can't hold the outbox."""


class StockStoreError(StateError):
    """A recovery directory of stock Bytewax is damaged, incomplete, or not one."""


class StockStoreInUseError(StockStoreError):
    """A flow is running on the recovery directory, so its files can change while they are read."""


class ArgumentError(StateError):
    """A key, a TTL or another argument of an operation is wrong."""


class UnknownOutcomeError(StateError):
    """The connection broke after a write was sent: it may or may not have been carried out.

    Sending it again could carry it out twice, so look at the stored value first.
    """


class NotACounterError(StateError):
    """The value at a key can't be added to: it is no integer, or would leave 64 bits."""


class ConflictError(StateError):
    """A value that the transaction read has changed since; it wrote nothing; try again."""


class LockError(StateError):
    """A lock can't be had or kept."""


class LockHeldError(LockError):
    """Another holder kept the lock for the whole waiting time."""


class LockLostError(LockError):
    """The lock expired, or another holder has it: the data that it protects may have changed."""


class CheckpointError(StateError):
    """A checkpoint of a namespace can't be taken or restored."""


class CheckpointDamagedError(CheckpointError):
    """A checkpoint file is cut off or altered; the message says where."""


class NamespaceNotEmptyError(CheckpointError):
    """The namespace to restore into holds keys, and no option says whether to replace them."""


class RestoreUnfinishedError(CheckpointError):
    """A restore into this namespace was started and has not finished, or is still running."""
