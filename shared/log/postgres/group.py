"""What becomes of commits that go to the database together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from shared.errors import DataLoss
from shared.log.log import (
    AggregateKey,
    CommandKey,
    Commit,
    Committed,
    Duplicate,
    Head,
    Outcome,
    Receipt,
    Snapshot,
    WrongVersion,
    chain,
    stamp,
    time_of,
)
from tidemark.v1.event_pb2 import RecordedEvent


@dataclass(slots=True)
class Known:
    """What is taken for true of the log, until the database has confirmed it.

    Args:
        head: of the log.
        fence: a number in the head's row: whoever moves it ends all writing that began before.
        versions: of the aggregates that are written to.
        receipts: of the commands that had their effect before.
        is_confirmed: whether the database has said so.
    """

    head: Head
    fence: int
    versions: Mapping[AggregateKey, int]
    receipts: Mapping[CommandKey, Receipt] = field(default_factory=dict)
    is_confirmed: bool = False

    @classmethod
    def assumed(cls, commits: Iterable[Commit], head: Head, fence: int) -> "Known":
        """That all is as the commits expect it, which is what it nearly always is."""
        versions: dict[AggregateKey, int] = {}
        for commit in commits:
            versions.setdefault(commit.key, commit.expected_version)
        return cls(head, fence, versions)


@dataclass(frozen=True, slots=True)
class Row:
    """An event as it is stored.

    Args:
        key: its aggregate.
        version: of that.
        position: of the event.
        time: of the event.
        command: on the last event of a command that may come again.
        digest: of the log up to it.
        record: itself.
    """

    key: AggregateKey
    version: int
    position: int
    time: int
    command: CommandKey | None
    digest: bytes
    record: bytes


class Group:
    """Commits as they would be written if what is known is true.

    Args:
        commits: the commits.
        known: what their outcomes rest on.
        now: microseconds since 1970.
    """

    def __init__(self, commits: Sequence[Commit], known: Known, now: int) -> None:
        self.known = known
        self.rows: list[Row] = []
        self.snapshots: dict[AggregateKey, Snapshot] = {}
        self.head = known.head
        """After the group."""
        self.commands = list(
            {
                commit.command: None
                for commit in commits
                if commit.command is not None and commit.command not in known.receipts
            }
        )
        """Those that must not have had their effect."""
        self._now = now
        self._versions = dict(known.versions)
        self._receipts = dict(known.receipts)
        self._failed: set[AggregateKey] = set()
        self.outcomes = [self._outcome(commit) for commit in commits]

    def _outcome(self, commit: Commit) -> Outcome:
        key = commit.key
        version = self._versions[key]
        if key in self._failed:
            return WrongVersion(version)
        if commit.command is not None and commit.command in self._receipts:
            self._failed.add(key)
            return Duplicate(self._receipts[commit.command])
        if commit.expected_version != version:
            self._failed.add(key)
            return WrongVersion(version)
        if commit.events:
            self._add(commit)
        return Committed(self.head.position)

    def _add(self, commit: Commit) -> None:
        last = len(commit.events)
        for number, event in enumerate(commit.events, 1):
            position = self.head.position + 1
            time = max(self._now, self.head.time + 1)
            record = stamp(event, position, time)
            digest = chain(self.head.digest, record)
            self.head = Head(position, digest, time)
            version = commit.expected_version + number
            command = commit.command if number == last else None
            self.rows.append(Row(commit.key, version, position, time, command, digest, record))
        self._versions[commit.key] += last
        if commit.command is not None:
            self._receipts[commit.command] = Receipt.of(commit.events[-1])
        if commit.snapshot is not None:
            self.snapshots[commit.key] = commit.snapshot


class Copied:
    """Records of another log, to be added as they are.

    Args:
        records: the records.

    Raises:
        DataLoss: LOG_DIVERGED: one is no event.
    """

    def __init__(self, records: Sequence[bytes]) -> None:
        try:
            self._events = [RecordedEvent.FromString(record) for record in records]
        except DecodeError as error:
            raise DataLoss("LOG_DIVERGED", "What is to be copied is no event") from error
        self._records = records
        last_of = {
            CommandKey(event.tenant_id, event.causation_id): number
            for number, event in enumerate(self._events)
            if event.command_fingerprint
        }
        self._command_at = {number: command for command, number in last_of.items()}
        self.commands = list(last_of)
        self.known = Known(Head(), 0, {_key_of(event): 0 for event in self._events})
        self.rows: list[Row] = []
        self.snapshots: dict[AggregateKey, Snapshot] = {}
        self.head = Head()

    def follow(self, known: Known, digest: bytes) -> None:
        """Puts the records after the head of the log, of which everything is known.

        Raises:
            DataLoss: LOG_DIVERGED: they do not follow it, or do not lead to the digest.
        """
        self.known = known
        self.head = known.head
        # They are in the log already, with an earlier event of theirs.
        self.commands = []
        versions = dict(known.versions)
        for number, (event, record) in enumerate(zip(self._events, self._records, strict=True)):
            key, time = _key_of(event), time_of(event)
            versions[key] += 1
            if not (
                event.position > self.head.position
                and time > self.head.time
                and event.version == versions[key]
            ):
                raise DataLoss(
                    "LOG_DIVERGED",
                    f"Position {event.position} cannot follow position {self.head.position}",
                )
            self.head = Head(event.position, chain(self.head.digest, record), time)
            command = self._command_at.get(number)
            self.rows.append(
                Row(key, event.version, event.position, time, command, self.head.digest, record)
            )
        if digest and digest != self.head.digest:
            raise DataLoss("LOG_DIVERGED", f"Another digest at position {self.head.position}")


def _key_of(event: RecordedEvent) -> AggregateKey:
    return AggregateKey(event.tenant_id, event.aggregate_type, event.aggregate_id)
