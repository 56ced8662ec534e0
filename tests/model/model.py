"""What must be true of the log, given what clients asked and were told: a trivial model.

The log as it is on the disk is folded by the domain's functions, and that is all: whatever was
answered has to be what the rules say of it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import Message

from command_service.calls import Answer
from command_service.command import Command
from shared.aggregates.aggregate import pack
from shared.errors import Exhausted, TidemarkError, Unavailable
from shared.log.log import AggregateKey, CommandKey
from tests.history.timeline import Timeline, key_of, say_message
from tests.keys.recorded import recorded_fingerprint
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent


@dataclass(eq=False, repr=False)
class Sent:
    """A command that was sent, and its answer.

    Args:
        command: what was asked.
        expected_version: the version it was to be executed at; None: any.
        before: the log's head when it was sent.
        answer: None: it is not known, or not known yet.
        after: the log's head when it was answered.
    """

    command: Command
    expected_version: int | None
    before: int
    answer: Answer | None = None
    after: int = 0

    def note(self, answer: Answer, head: int) -> None:
        """Notes the answer, and the log's head by then."""
        self.answer, self.after = answer, head

    def again(self, head: int) -> "Sent":
        """The same once more, sent at a head."""
        return Sent(self.command, self.expected_version, head)

    def __repr__(self) -> str:
        at = "" if self.expected_version is None else f" at version {self.expected_version}"
        told = str(self.answer).replace("\n", " ")
        return (
            f"<{say_message(self.command.message)} of {self.key.tenant_id}{at}, sent at"
            f" {self.before} under {self.command.command_id}, told at {self.after}: {told}>"
        )

    @property
    def key(self) -> CommandKey:
        """Under which it has its effect."""
        return CommandKey(self.command.key.tenant_id, self.command.command_id)

    @property
    def kind(self) -> str:
        """What came of it, as tests count it."""
        match self.answer:
            case None:
                return "unknown"
            case CommandReceipt(duplicate=duplicate):
                return "repetition" if duplicate else "done"
            case error if error.reason in {"WRONG_VERSION", "COMMAND_ID_REUSED", "DISK_FULL"}:
                return error.reason
            case error:
                return "refused" if error.is_verdict else error.reason


class Model:
    """See the module's description.

    Args:
        keys: with which what is personal in the log is encrypted.
    """

    def __init__(self, keys: Mapping[AggregateKey, bytes]) -> None:
        self._keys = keys
        self.timeline = Timeline([])
        self.sent: list[Sent] = []

    def advance(self, records: Sequence[bytes]) -> None:
        """Takes the log as it is now, which has to be what it was, and perhaps more."""
        known = self.timeline.records
        assert list(records[: len(known)]) == list(known), "An event is gone, or another one"
        if len(records) > len(known):
            self.timeline = Timeline(records, self._keys)
            assert not self.timeline.broken, self.timeline.broken
            positions = self.timeline.positions
            assert positions == list(range(1, len(positions) + 1)), "Positions have a gap"

    def check(self) -> None:
        """Looks whether every event was asked for, and every answer is true."""
        sent: defaultdict[CommandKey, list[Sent]] = defaultdict(list)
        for each in self.sent:
            sent[each.key].append(each)
        for key, events in self.timeline.by_command.items():
            self._check_effect(events, sent[key])
        for each in self.sent:
            self._check_answer(each)
        first = Counter(each.key for each in self.sent if each.kind == "done")
        assert all(count == 1 for count in first.values()), "A command was executed twice"

    def _check_effect(self, events: Sequence[RecordedEvent], sent: Iterable[Sent]) -> None:
        """Somebody asked for it, was not told otherwise, and the rules say just this."""
        first = events[0]
        possible = [each for each in sent if each.kind in {"done", "unknown"}]
        for each in possible:
            caused = self._verdict(each, first.position - 1)
            if isinstance(caused, list) and each.command.key == key_of(first):
                payloads = [pack(payload) for payload in caused]
                if payloads == [event.payload for event in events] and (
                    first.command_fingerprint == self._fingerprint(each, first)
                ):
                    return
        raise AssertionError(f"Nobody is known to have caused {events}, of {possible}")

    def _check_answer(self, sent: Sent) -> None:
        effect = self.timeline.by_command.get(sent.key, [])
        match sent.answer:
            case None:
                pass
            case CommandReceipt() as receipt:
                assert effect, f"An acknowledged command has no effect: {sent}"
                last = effect[-1]
                assert last.command_fingerprint == self._fingerprint(sent, last), sent
                assert (receipt.position, receipt.version) == (last.position, last.version), sent
                assert receipt.duplicate or sent.before < effect[0].position, sent
                assert last.position <= sent.after, sent
            case Unavailable(reason="LOG_UNAVAILABLE") | Exhausted(reason="DISK_FULL"):
                # That no other attempt has had it either is checked with the effect.
                pass
            case TidemarkError(reason="COMMAND_ID_REUSED"):
                assert effect, sent
                assert effect[0].command_fingerprint != self._fingerprint(sent, effect[0]), sent
                assert effect[0].position <= sent.after, sent
            case TidemarkError(reason=reason):
                used_at = effect[0].position if effect else sent.after + 1
                moments = range(sent.before, min(sent.after + 1, used_at))
                told = [self._verdict(sent, position) for position in moments]
                assert reason in told, f"{sent} was never true: {told}"

    def _fingerprint(self, sent: Sent, event: RecordedEvent) -> bytes:
        return recorded_fingerprint(sent.command, event, self._keys)

    def _verdict(self, sent: Sent, position: int) -> list[Message] | str:
        """What the rules say to a command at a position: what it causes, or why it does not."""
        command = sent.command
        state = self.timeline.state_at(command.key, position)
        version = 0 if state is None else state.version
        if sent.expected_version not in {None, version}:
            return "WRONG_VERSION"
        try:
            return list(command.rules.decide(state, command.message))
        except TidemarkError as refusal:
            return refusal.reason
