"""Every event against the receipt that somebody was given for it."""

from collections.abc import Iterable, Iterator

from tests.history.on_domain import the_domain_is_obeyed
from tests.history.on_log import commands_are_whole, positions_increase, versions_have_no_gap
from tests.history.timeline import Timeline
from tests.services.deployment import CommandClient
from tests.services.histories import WholeLog
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent


class Ledger:
    """Receipts, and the log that they are for."""

    def __init__(self) -> None:
        self.log = WholeLog()
        self._receipts: dict[int, CommandReceipt] = {}
        """Those whose events have not been looked for yet, by position."""

    def note(self, receipts: Iterable[CommandReceipt]) -> None:
        """Takes note of receipts; that of a repeated or a tried command is for no event."""
        for receipt in receipts:
            if receipt.position and not receipt.duplicate:
                self._receipts[receipt.position] = receipt

    async def settle(self, commands: CommandClient) -> list[str]:
        """Reads on in the log; what nobody was told of, or was told wrongly, in sentences."""
        known = len(self.log.records)
        await self.log.read_on(commands)
        found = [*self._unaccounted(self.log.records[known:])]
        if self.log.computed_digest != self.log.checkpoint.digest:
            found.append("the digest of the log is not that of its events")
        return found

    def _unaccounted(self, records: Iterable[bytes]) -> Iterator[str]:
        # Every command of the contract causes one event.
        receipts, self._receipts = self._receipts, {}
        for event in map(RecordedEvent.FromString, records):
            receipt = receipts.pop(event.position, CommandReceipt())
            told = (receipt.command_id, receipt.aggregate_id, receipt.version)
            if told != (event.causation_id, event.aggregate_id, event.version):
                yield f"the receipt for {event} is {receipt}"
        for receipt in receipts.values():
            yield f"there is no event of {receipt}"

    def violations(self) -> list[str]:
        """What is wrong with the whole log, by the rules of logs and domains."""
        timeline = Timeline(self.log.records)
        checks = (
            positions_increase, versions_have_no_gap, commands_are_whole, the_domain_is_obeyed,
        )  # fmt: skip
        return [str(violation) for check in checks for violation in check(timeline)]
