"""What the executor is asked, from its arrival to its answer."""

import asyncio

from command_service.command import Command
from command_service.live import LiveAggregate
from shared.errors import TidemarkError
from shared.log.log import Commit
from tidemark.v1.command_pb2 import CommandReceipt

Answer = CommandReceipt | TidemarkError


class CommandStream:
    """Commands whose order matters to their caller.

    Once one has failed without a verdict, no later one for the same aggregate takes effect, and
    none that is not decided yet.
    """

    def __init__(self) -> None:
        self.failure: TidemarkError | None = None

    def fail(self, failure: TidemarkError) -> None:
        """Gives up whatever is not decided yet; the first failure stands."""
        self.failure = self.failure or failure


class Call:
    """Commands that are answered together."""

    __slots__ = ("answers", "asked_at", "done", "missing", "stream")

    def __init__(self, count: int, stream: CommandStream | None, asked_at: float) -> None:
        self.answers: list[Answer | None] = [None] * count
        self.missing = count
        self.done: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self.stream = stream or CommandStream()
        self.asked_at = asked_at

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody wants the answers any more."""
        return self.stream.failure is not None or self.done.cancelled()

    def answer(self, slot: int, answer: Answer) -> None:
        """Notes the answer to one of the commands; with the last, the call is done."""
        self.answers[slot] = answer
        self.missing -= 1
        if isinstance(answer, TidemarkError) and not answer.is_verdict:
            self.stream.fail(answer)
        if self.missing == 0 and not self.done.done():
            self.done.set_result([answer for answer in self.answers if answer is not None])


class Pending:
    """A command on its way."""

    __slots__ = (
        "answer",
        "attempts",
        "call",
        "command",
        "commit",
        "is_blocker",
        "is_settled",
        "leader",
        "live",
        "sequence",
        "slot",
    )

    def __init__(self, command: Command, call: Call, slot: int, sequence: int) -> None:
        self.command = command
        self.call = call
        self.slot = slot
        self.sequence = sequence
        self.attempts = 0
        self.is_settled = False
        self.reset()

    def reset(self) -> None:
        """Back to before it was decided."""
        self.live: LiveAggregate | None = None
        self.commit: Commit | None = None
        self.answer: Answer | None = None
        self.leader: Pending | None = None
        self.is_blocker = False
        """Whether it may have to be decided yet, without its aggregate's state showing that.

        So it is with a command whose id another aggregate's command has, until that one's fate is
        known: then it is decided before those for its aggregate that came later.
        """

    def follow(self, leader: "Pending") -> None:
        """Waits for the outcome of the command that has its id."""
        self.leader = leader
        self.is_blocker = leader.command.key != self.command.key

    @property
    def is_undecided(self) -> bool:
        """Whether it stands in line only to be decided when those before it are settled."""
        return self.answer is None and self.leader is None
