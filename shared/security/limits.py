"""How much each caller may have at once, and all of them together."""

from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated

import typer

from shared.errors import Exhausted
from shared.security.identity import Identity


@dataclass(frozen=True)
class LimitOptions:
    """Beyond which a call is refused. Its fields are options of the command line."""

    max_streams: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_STREAMS",
            min=1,
            help="Streams open at once; beyond, RESOURCE_EXHAUSTED.",
        ),
    ] = 2_000
    max_streams_per_caller: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_STREAMS_PER_CALLER",
            min=1,
            help="Those of one caller who is known.",
        ),
    ] = 100
    max_calls_per_caller: Annotated[
        int,
        typer.Option(
            envvar="TIDEMARK_MAX_CALLS_PER_CALLER",
            min=1,
            help="Other calls at once of one caller who is known.",
        ),
    ] = 1_000
    default_deadline: Annotated[
        float,
        typer.Option(
            envvar="TIDEMARK_DEFAULT_DEADLINE",
            min=0.001,
            help="Seconds that a call may take, without a stream, whose caller sets no deadline.",
        ),
    ] = 30.0


class Limit:
    """A number of things that are open at once. Counting takes no await.

    Args:
        reason: of the refusal.
        what: things, in the plural.
        in_all: how many there may be.
        per_caller: how many a caller may have who is known; without credentials all are one.
    """

    def __init__(self, reason: str, what: str, in_all: int, per_caller: int) -> None:
        self._reason = reason
        self._what = what
        self._in_all = in_all
        self._per_caller = per_caller
        self._open = 0
        self._open_of: Counter[str] = Counter()

    def one(self, identity: Identity | None) -> "One":
        """One more for the length of a block.

        Raises:
            Exhausted: on entering: that is too many.
        """
        return One(self, "" if identity is None else identity.subject)

    def take(self, subject: str) -> None:
        """Counts one more in."""
        if self._open >= self._in_all:
            raise Exhausted(self._reason, f"Too many {self._what}", limit=self._in_all)
        if subject:
            if self._open_of[subject] >= self._per_caller:
                raise Exhausted(
                    self._reason,
                    f"Too many {self._what} of this caller",
                    limit=self._per_caller,
                )
            self._open_of[subject] += 1
        self._open += 1

    def give_back(self, subject: str) -> None:
        """Counts one out."""
        self._open -= 1
        if subject:
            self._open_of[subject] -= 1
            if not self._open_of[subject]:
                del self._open_of[subject]


class One:
    """A place that is taken. A context manager of its own: every call enters one."""

    __slots__ = ("_limit", "_subject")

    def __init__(self, limit: Limit, subject: str) -> None:
        self._limit = limit
        self._subject = subject

    def __enter__(self) -> None:
        self._limit.take(self._subject)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limit.give_back(self._subject)
