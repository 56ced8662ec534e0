"""Which moments of an aggregate an answer may be of."""

from typing import NamedTuple

from shared.log.log import AggregateKey, time_of_timestamp
from tests.history.timeline import Timeline
from tidemark.v1.query_pb2 import AsOf

END = 2**63 - 1


class Span(NamedTuple):
    """From one position to another, both included."""

    first: int
    last: int


def span(timeline: Timeline, key: AggregateKey, as_of: AsOf | None, heads: Span) -> Span | None:
    """The positions of which an answer about an aggregate may be.

    Args:
        timeline: the log.
        key: the aggregate.
        as_of: the moment that is asked for; None: now.
        heads: what may have been the head of the server that answers.

    Returns:
        None if that moment never came, so that there is no answer but an error.
    """
    if as_of is None:
        return heads
    match as_of.WhichOneof("moment"):
        case "position":
            return Span(as_of.position, as_of.position)
        case "time":
            # Who has not come that far answers for the head.
            moment = timeline.position_at(time_of_timestamp(as_of.time))
            return Span(min(moment, heads.first), min(moment, heads.last))
        case _:
            return _span_of_version(timeline, key, as_of.version)


def _span_of_version(timeline: Timeline, key: AggregateKey, version: int) -> Span | None:
    """From where an aggregate came to a version until just before it left it."""
    moments = timeline.moments.get(key, [])
    if version > len(moments):
        return None
    first = moments[version - 1].position if version else 0
    last = moments[version].position - 1 if version < len(moments) else END
    return Span(first, last)


def may_have_no_history(
    timeline: Timeline, key: AggregateKey, as_of: AsOf | None, heads: Span
) -> bool:
    """Whether it can be true that an aggregate had no event yet at a moment."""
    if as_of is not None and as_of.WhichOneof("moment") == "version":
        # Whoever has not heard of an aggregate does not know which versions it has.
        return as_of.version == 0 or timeline.version_at(key, heads.first) == 0
    moment = span(timeline, key, as_of, heads)
    return moment is None or timeline.version_at(key, moment.first) == 0


def may_be_absent(timeline: Timeline, key: AggregateKey, heads: Span) -> bool:
    """Whether it can be true that an aggregate is not there now: not yet, or not any more."""
    return may_have_no_history(timeline, key, None, heads) or is_deleted(
        timeline.state_at(key, heads.last)
    )


def is_deleted(state: object) -> bool:
    """Whether a state is the last of something that is gone, which only its past shows."""
    return getattr(state, "deleted", False)
