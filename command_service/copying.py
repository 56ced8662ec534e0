"""Copies a log into another: events, with them the receipts, and snapshots, all unchanged."""

from collections.abc import Callable
from enum import StrEnum

from shared.errors import DataLoss
from shared.log.log import EMPTY_DIGEST, EventLog, Head, chain


class Step(StrEnum):
    """What is being done."""

    COPY = "copy"
    VERIFY = "verify"


Progress = Callable[[Step, int, int], None]
"""Told of a step, the position that it has come to, and the one that it ends at."""


async def copy_log(source: EventLog, target: EventLog, progress: Progress) -> Head:
    """Brings the target to where the source's head is when this begins.

    It goes on where an earlier one was interrupted: after the target's head, which has to be in the
    source. What was written is read back in the end.

    Returns:
        That head. If the source's has moved meanwhile, somebody writes to it.

    Raises:
        DataLoss: LOG_DIVERGED: the target is not a beginning of the source, or does not read back
            as what was copied.
    """
    head = await source.newest()
    have = await target.newest()
    if have.digest != await source.digest_at(have.position):
        raise DataLoss(
            "LOG_DIVERGED",
            f"The target has {have.position} events that are not the source's first ones",
        )
    await _copy_events(source, target, head, progress)
    await _copy_snapshots(source, target)
    await _verify(target, head, progress)
    return head


async def _copy_events(source: EventLog, target: EventLog, head: Head, progress: Progress) -> None:
    while (position := target.head.position) < head.position:
        progress(Step.COPY, position, head.position)
        page = await source.read(position, until=head.position)
        await target.copy(page.records, page.digest)
    progress(Step.COPY, head.position, head.position)


async def _copy_snapshots(source: EventLog, target: EventLog) -> None:
    after = None
    while page := await source.snapshots(after):
        await target.keep(page)
        *_, after = page


async def _verify(target: EventLog, head: Head, progress: Progress) -> None:
    position, digest = 0, EMPTY_DIGEST
    while position < head.position:
        progress(Step.VERIFY, position, head.position)
        page = await target.read(position, until=head.position)
        for record in page.records:
            digest = chain(digest, record)
        position = page.position
        if digest != page.digest:
            break
    progress(Step.VERIFY, position, head.position)
    if digest != head.digest:
        raise DataLoss(
            "LOG_DIVERGED", f"The target is not the source's copy somewhere up to {position}"
        )
