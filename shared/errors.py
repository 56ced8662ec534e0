"""Everything that a caller can be told, by what the caller can do about it.

One class per status code; the reason in it is what programs act on. `shared.rpc` turns them into
`google.rpc.Status`. The reasons of a domain are named where its rules are.
"""

from typing import ClassVar, NamedTuple

from google.rpc import code_pb2


class FieldViolation(NamedTuple):
    """A field of a request, by its path, and what is wrong with it in every state."""

    field: str
    description: str


class TidemarkError(Exception):
    """An answer other than success.

    Args:
        reason: UPPER_SNAKE_CASE, stable: clients compare it.
        message: a sentence for the person who reads it.
        metadata: what a program needs beside the reason, such as the actual version.
    """

    code: ClassVar[code_pb2.Code]
    retry_after: float | None = None
    """Seconds after which to try again, where that can help."""
    is_verdict: ClassVar[bool] = True
    """Whether it is about the command itself, rather than about the service's ability to answer."""

    def __init__(self, reason: str, message: str, /, **metadata: str | int) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = {name: str(value) for name, value in metadata.items()}

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidArgument(TidemarkError):
    """Wrong in every state; sending it again cannot help."""

    code = code_pb2.INVALID_ARGUMENT


class InvalidFields(InvalidArgument):
    """INVALID_FIELD, with the fields named."""

    def __init__(self, *violations: FieldViolation) -> None:
        sentence = "; ".join(f"{field}: {description}" for field, description in violations)
        super().__init__("INVALID_FIELD", sentence)
        self.violations = violations


def invalid_field(field: str, description: str) -> InvalidFields:
    """The usual case: one field is wrong."""
    return InvalidFields(FieldViolation(field, description))


class Unauthenticated(TidemarkError):
    """The credentials are missing, or are none."""

    code = code_pb2.UNAUTHENTICATED


class PermissionDenied(TidemarkError):
    """The credentials are good, but not for this."""

    code = code_pb2.PERMISSION_DENIED


class NotFound(TidemarkError):
    """There is no such thing, or not at that moment."""

    code = code_pb2.NOT_FOUND


class AlreadyExists(TidemarkError):
    """The thing to be created is there."""

    code = code_pb2.ALREADY_EXISTS


class Refused(TidemarkError):
    """The aggregate's rules refuse the command in its present state."""

    code = code_pb2.FAILED_PRECONDITION


class Conflict(TidemarkError):
    """Somebody else was first: read again and retry."""

    code = code_pb2.ABORTED


class OutOfRange(TidemarkError):
    """Beyond the end of the log."""

    code = code_pb2.OUT_OF_RANGE


class Unavailable(TidemarkError):
    """Not now: the same call can succeed later."""

    code = code_pb2.UNAVAILABLE
    retry_after = 1.0
    is_verdict = False


class Exhausted(TidemarkError):
    """A limit is reached."""

    code = code_pb2.RESOURCE_EXHAUSTED
    retry_after = 1.0
    is_verdict = False


class DeadlineExceeded(TidemarkError):
    """It took too long; it may yet take effect."""

    code = code_pb2.DEADLINE_EXCEEDED
    is_verdict = False


class DataLoss(TidemarkError):
    """What is stored is not what was written, or not the log that the caller has read."""

    code = code_pb2.DATA_LOSS
    is_verdict = False


class Internal(TidemarkError):
    """Unforeseen: the operator's log has the whole of it, the caller nothing but this."""

    code = code_pb2.INTERNAL
    is_verdict = False

    def __init__(self) -> None:
        super().__init__("INTERNAL", "Unexpected error; the service's log has the details")
