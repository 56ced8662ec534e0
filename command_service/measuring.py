"""What the executor tells the metrics, each in about a microsecond."""

import time
from collections.abc import Iterable, Sequence

from command_service.calls import Answer, Pending
from command_service.command import Command
from shared.errors import TidemarkError
from shared.log.log import Commit, Committed, Outcome
from shared.telemetry import tracing
from shared.telemetry.metrics import (
    AGGREGATES_ASKED,
    COMMAND_SECONDS,
    COMMIT_COMMANDS,
    COMMIT_SECONDS,
    COMMITS_FAILED,
)

now = time.perf_counter

_hits = AGGREGATES_ASKED.labels("hit")
_misses = AGGREGATES_ASKED.labels("miss")


def settled(pending: Pending, answer: Answer | None) -> None:
    """A command has its answer; None: its caller has gone."""
    command = pending.command
    name = command.message.DESCRIPTOR.full_name
    seconds = now() - pending.call.asked_at
    COMMAND_SECONDS.labels(name, _outcome(command, answer)).observe(seconds)


def turned_away(command: Command, error: TidemarkError) -> None:
    """A command was not taken on."""
    COMMAND_SECONDS.labels(command.message.DESCRIPTOR.full_name, error.reason).observe(0.0)


def asked(aggregates: int, misses: int) -> None:
    """Commands need so many aggregates, of which some are not in memory."""
    _hits.inc(aggregates - misses)
    if misses:
        _misses.inc(misses)


def committed(commits: Sequence[Commit], outcomes: Iterable[Outcome], begun: float) -> None:
    """A group of commands is durable."""
    seconds = now() - begun
    COMMIT_COMMANDS.observe(len(commits))
    COMMIT_SECONDS.observe(seconds)
    if not tracing.tracer.is_on:
        return
    for commit, outcome in zip(commits, outcomes, strict=True):
        if isinstance(outcome, Committed) and commit.events and commit.events[-1].traceparent:
            tracing.tracer.record(
                "commit",
                commit.events[-1].traceparent,
                seconds,
                position=outcome.position,
                commands=len(commits),
            )


def failed(error: TidemarkError) -> None:
    """The log did not take a group."""
    COMMITS_FAILED.labels(error.reason).inc()


def _outcome(command: Command, answer: Answer | None) -> str:
    if answer is None:
        return "abandoned"
    if isinstance(answer, TidemarkError):
        return answer.reason
    if answer.duplicate:
        return "duplicate"
    return "validated" if command.validate_only else "accepted"
