"""Executes commands: many callers, one writer, and no caller waits for another's fsync in vain.

Two loops, each a task. The first takes the commands that have arrived, once no more arrive, reads
what it does not have in memory, and decides them in order against the newest state, which it moves
on at once. The second appends all that is decided as one transaction and answers when that is
durable; meanwhile the first goes on. Group commit, as databases do it for their own log (DeWitt et
al. 1984, "Implementation techniques for main memory database systems").

An answer never leaves before the events that it rests on are durable, a refusal included. So
whatever rests on events that are not, waits in line behind them.

A third loop destroys keys: the event that erases an aggregate comes first, because it can still be
refused, and a key cannot be made good; the answer comes last.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog
import uuid_utils
from google.protobuf.message import Message

from command_service import measuring
from command_service.admission import Admission
from command_service.arrivals import Arrivals
from command_service.calls import Answer, Call, CommandStream, Pending
from command_service.command import Command
from command_service.keys.store import KeyStore
from command_service.live import LiveAggregate, LiveAggregates
from command_service.sealing import fingerprint_of, keys_for, recognized, sealed_payloads
from shared.aggregates.aggregate import pack_into
from shared.errors import Conflict, Exhausted, Internal, Refused, TidemarkError, Unavailable
from shared.log.log import (
    AggregateKey,
    CommandKey,
    Commit,
    Committed,
    Duplicate,
    EventLog,
    Outcome,
    OutcomeUnknown,
    Receipt,
    Snapshot,
    WrongVersion,
)
from shared.outage import Outage
from shared.personal.sealing import Keys
from shared.telemetry.metrics import COMMIT_CONFLICTS
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import RecordedEvent

MAX_DECIDED = 256
"""Commands that wait for a commit, at which no more are decided: what is decided has its place
before whatever another tenant sends. Enough of them that a commit costs little beside them."""

MAX_DECIDED_OF_SEVERAL = 32
"""The same while several tenants call and a commit is quick: see `Admission`."""

MAX_GROUP_EVENTS = 4096
"""Events in one transaction, at which it is closed."""

QUIET_TURNS = 32
"""Turns of the event loop in which no command comes, after which gRPC has handed over what it has.

It hands over one call after the other, each in some four turns. To decide what has come makes these
turns longer, so that few come meanwhile: commits stay small, and those who wait, wait in gRPC.
"""

LONGEST_GATHERING_S = 0.02
"""How long commands may keep coming before those that have are decided."""

SNAPSHOT_EVERY = 20
"""Events of an aggregate from one snapshot to the next. One that is not in memory has to be read
from its last snapshot on, and each event may be in another place."""

MAX_ATTEMPTS = 10
"""How often a command is decided anew because another writer was first."""

DRAIN_S = 10.0
"""How long the last commit may take."""

logger = structlog.get_logger(__name__)


class Executor:
    """See the module's description.

    Args:
        log: what it appends to.
        keys: what it encrypts with.
        max_in_flight: commands accepted and not answered; beyond, RESOURCE_EXHAUSTED.
        max_per_tenant: those of one tenant among them.
        max_cached: aggregates kept in memory.
        snapshot_every: events of an aggregate from one snapshot to the next.
    """

    def __init__(
        self,
        log: EventLog,
        keys: KeyStore,
        *,
        max_in_flight: int = 16_384,
        max_per_tenant: int = 4_096,
        max_cached: int = 20_000,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._log = log
        self._keys = keys
        self._max_in_flight = max_in_flight
        self._max_per_tenant = max_per_tenant
        self._snapshot_every = snapshot_every
        self._live = LiveAggregates(log, max_cached)
        self._admission = Admission()
        self._arrived = Arrivals()
        self._returned: list[Pending] = []
        self._decided: deque[Pending] = deque()
        self._erased: list[Pending] = []
        self._uncommitted: dict[CommandKey, Pending] = {}
        self._has_arrivals = asyncio.Event()
        self._has_decisions = asyncio.Event()
        self._has_few_decisions = asyncio.Event()
        self._has_erased = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._outage = Outage("commit_failed")
        self._key_outage = Outage("keys_not_destroyed")
        self._in_flight = 0
        self._in_flight_of: Counter[str] = Counter()
        self._sequence = 0
        self._called = 0
        self._loaded_in_s = 0.0
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Executes until cancelled. To be cancelled after `drain`.

        Raises:
            ExceptionGroup: with a `shared.log.log.OutcomeUnknown`: the process has to end.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._decide_arrivals(), name="decide")
            tasks.create_task(self._commit_decisions(), name="commit")
            tasks.create_task(self._destroy_keys(), name="destroy keys")

    @property
    def in_flight(self) -> int:
        """Commands that are taken on and not answered."""
        return self._in_flight + self._admission.waiting

    @property
    def decided(self) -> int:
        """Those of them that wait for the next commit."""
        return len(self._decided)

    async def drain(self) -> None:
        """Returns once every command that was accepted is settled.

        Raises:
            OutcomeUnknown: the log takes longer than DRAIN_S; it may yet write.
        """
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._is_idle.wait()
        except TimeoutError:
            raise OutcomeUnknown(f"{self._in_flight} commands are still in flight") from None

    async def execute(self, command: Command) -> CommandReceipt:
        """Executes one command; the receipt means that its events are durable.

        A caller that is cancelled cancels nothing that is decided.

        Raises:
            TidemarkError: it had no effect, except for DataLoss and Internal, where that is not
                known.
            Exhausted: TOO_MANY_COMMANDS: `max_in_flight` is reached, or `max_per_tenant`.
        """
        tenant_id = command.key.tenant_id
        if self._in_flight + self._admission.waiting >= self._max_in_flight:
            raise _too_many(command, "Too many commands are in flight", self._max_in_flight)
        own = self._in_flight_of[tenant_id] + self._admission.waiting_of(tenant_id)
        if own >= self._max_per_tenant:
            message = "Too many commands of this tenant are in flight"
            raise _too_many(command, message, self._max_per_tenant)
        self._called += 1
        asked_at = measuring.now()
        async with self._admission.one(tenant_id):
            [answer] = await self._submit([command], None, asked_at)
        if isinstance(answer, TidemarkError):
            raise answer
        return answer

    def submit(
        self, commands: Sequence[Command], stream: CommandStream | None = None
    ) -> asyncio.Future[list[Answer]]:
        """Takes commands, at least one, and promises an answer to each, in their order.

        Those for one aggregate take effect in the order in which they are submitted.
        """
        self._admission.note(commands[0].key.tenant_id)
        self._called += len(commands)
        return self._submit(commands, stream, measuring.now())

    def _submit(
        self, commands: Sequence[Command], stream: CommandStream | None, asked_at: float
    ) -> asyncio.Future[list[Answer]]:
        call = Call(len(commands), stream, asked_at)
        for slot, command in enumerate(commands):
            self._sequence += 1
            self._arrived.add(Pending(command, call, slot, self._sequence))
            self._in_flight_of[command.key.tenant_id] += 1
        self._in_flight += len(commands)
        self._is_idle.clear()
        self._has_arrivals.set()
        return call.done

    async def room(self, tenant_id: str, count: int) -> None:
        """Returns when there is room for so many more of a tenant's stream.

        Half of what may be in flight is left to single commands; more than that at once goes alone.
        """
        while not self._has_room_for(tenant_id, count):
            self._has_room.clear()
            await self._has_room.wait()

    def _has_room_for(self, tenant_id: str, count: int) -> bool:
        own = self._in_flight_of[tenant_id] + self._admission.waiting_of(tenant_id)
        if own and own + count > self._max_per_tenant:
            return False
        return not self.in_flight or self.in_flight + count <= self._max_in_flight // 2

    # Deciding

    async def _decide_arrivals(self) -> None:
        while True:
            await self._has_arrivals.wait()
            self._has_arrivals.clear()
            await self._gather()
            while self._arrived or self._returned:
                batch = await self._next_batch()
                begun = self._loop.time()
                loaded = await self._load(batch)
                self._loaded_in_s = self._loop.time() - begun
                for pending in batch:
                    self._decide(pending, loaded)
                self._live.evict()
                if self._arrived or self._returned:
                    # Others' turn.
                    await asyncio.sleep(0)

    async def _gather(self) -> None:
        """Has gRPC hand over what it has. A command that is alone is not kept waiting."""
        if self._in_flight < 2:
            return
        until = self._loop.time() + LONGEST_GATHERING_S
        first = latest = self._called
        quiet_turns = 0
        while (
            quiet_turns < QUIET_TURNS
            and self._called - first < MAX_DECIDED
            and self._loop.time() < until
        ):
            await asyncio.sleep(0)
            quiet_turns += 1
            if self._called != latest:
                latest = self._called
                quiet_turns = 0

    async def _next_batch(self) -> list[Pending]:
        while (room := self._max_decided - len(self._decided)) <= 0:
            self._has_few_decisions.clear()
            await self._has_few_decisions.wait()
        if self._returned:
            self._arrived.put_back(self._returned)
            self._returned.clear()
        return self._arrived.take(room)

    @property
    def _max_decided(self) -> int:
        if not self._admission.is_contested:
            return MAX_DECIDED
        return min(int(MAX_DECIDED_OF_SEVERAL * self._admission.slowness), MAX_DECIDED)

    async def _load(self, batch: Sequence[Pending]) -> "_Loaded":
        """Reads what the batch needs and memory does not have: receipts, keys, and aggregates."""
        commands: set[CommandKey] = set()
        aggregates = {}
        misses = 0
        for pending in batch:
            command = pending.command
            key = command.receipt_key
            if key is not None:
                # Looked up before the log is: what leaves here meanwhile, the log has.
                pending.leader = self._uncommitted.get(key)
                if pending.leader is None:
                    commands.add(key)
            if command.key not in self._live:
                aggregates[command.key] = command.rules
                misses += 1
        measuring.asked(len(batch), misses)
        receipts: dict[CommandKey, Receipt | TidemarkError] = {}
        if commands:
            try:
                receipts.update(await self._log.receipts(commands))
            except TidemarkError as error:
                receipts.update(dict.fromkeys(commands, error))
        new = [each for each in batch if each.command.is_personal and each.leader is None]
        keys = await keys_for(self._keys, new, receipts) if new else {}
        failures = await self._live.load(aggregates) if aggregates else {}
        return _Loaded(receipts, keys, failures)

    def _decide(self, pending: Pending, loaded: "_Loaded") -> None:
        command = pending.command
        if pending.call.is_abandoned:
            self._settle(pending, pending.call.stream.failure)
            return
        if (key := command.receipt_key) is not None:
            leader = pending.leader or self._uncommitted.get(key)
            if leader is not None:
                self._follow(pending, leader)
                return
            if isinstance(error := loaded.receipts.get(key), TidemarkError):
                self._settle(pending, error)
                return
        keys = loaded.keys if command.is_personal else {}
        if isinstance(keys, TidemarkError):
            self._settle(pending, keys)
            return
        if key is not None and isinstance(receipt := loaded.receipts.get(key), Receipt):
            self._settle(pending, _repeated(command, recognized(command, receipt, keys)))
            return
        live = self._live.get(command.key)
        if live is None:
            if (failure := loaded.failures.get(command.key)) is not None:
                self._settle(pending, failure)
            else:
                # It was dropped while others of the batch were read.
                self._decide_again(pending)
            return
        if live.is_lost and not live.pending:
            self._live.drop(live)
            self._decide_again(pending)
            return
        pending.live = live
        if live.is_lost or live.blockers:
            # What it would rest on is not known before those in line have had their turn.
            self._stand_in_line(pending)
            return
        try:
            self._judge(pending, live, keys)
        except TidemarkError as error:
            error.metadata["aggregate_type"] = command.key.aggregate_type
            error.metadata["aggregate_id"] = command.key.aggregate_id
            pending.answer = error
        except Exception:
            logger.exception(
                "command_failed",
                command=str(command.message.DESCRIPTOR.full_name),
                correlation_id=command.correlation_id,
            )
            live.is_lost = True
            self._settle(pending, Internal())
            self._return()
            return
        self._answer_in_turn(pending, live)

    def _judge(self, pending: Pending, live: LiveAggregate, keys: Keys) -> None:
        """Decides against the newest state, and moves that on.

        Raises:
            TidemarkError: refused.
        """
        command = pending.command
        expected = command.expected_version
        if expected is not None and expected != live.version:
            raise Conflict(
                "WRONG_VERSION",
                f"The aggregate is at version {live.version}, not {expected}",
                actual_version=live.version,
                expected_version=expected,
            )
        payloads = command.rules.decide(live.state, command.message)
        if not payloads:
            raise TypeError(f"{command.message.DESCRIPTOR.full_name} caused no event")
        version = live.version
        fingerprint = command.fingerprint
        if not command.validate_only:
            payloads = sealed_payloads(command, payloads, version, keys)
            fingerprint = fingerprint_of(command, keys)
        events = [
            _event(command, payload, number, fingerprint)
            for number, payload in enumerate(payloads, version + 1)
        ]
        receipt = CommandReceipt(
            command_id=command.command_id,
            aggregate_id=command.key.aggregate_id,
            version=version + len(events),
        )
        pending.answer = receipt
        if command.validate_only:
            receipt.events.extend(events)
            return
        for event, payload in zip(events, payloads, strict=True):
            event.event_id = str(uuid_utils.uuid7())
            live.apply(payload)
        key = command.receipt_key
        pending.commit = Commit(command.key, version, events, key, self._snapshot(live))
        if key is not None:
            self._uncommitted[key] = pending

    def _snapshot(self, live: LiveAggregate) -> Snapshot | None:
        """A snapshot, if it is time for one; it is kept with the events that it includes."""
        if live.version - live.snapshot_version < self._snapshot_every or live.state is None:
            return None
        live.snapshot_version = live.version
        schema = live.rules.aggregate.snapshot_schema
        return Snapshot(live.version, schema, live.state.SerializeToString(deterministic=True))

    def _answer_in_turn(self, pending: Pending, live: LiveAggregate) -> None:
        """Puts an answer in line behind what it rests on, or gives it if that is durable."""
        if pending.commit is None:
            if not self._log.is_exclusive:
                # Another writer may have moved on, or executed this very command: an answer is
                # true of the log, not of a cache.
                key = pending.command.receipt_key
                pending.commit = Commit(live.key, live.version, (), key)
            elif live.version == live.durable_version:
                self._settle(pending, pending.answer)
                return
        self._stand_in_line(pending)

    def _follow(self, pending: Pending, leader: Pending) -> None:
        """Has a repeated command wait for the first one's outcome."""
        if leader.is_settled:
            self._settle_follower(pending, leader)
            return
        pending.follow(leader)
        pending.live = self._live.get(pending.command.key)
        self._stand_in_line(pending)

    def _stand_in_line(self, pending: Pending) -> None:
        if pending.live is not None:
            pending.live.pending += 1
            pending.live.blockers += pending.is_blocker
        self._decided.append(pending)
        self._has_decisions.set()

    def _step_out(self, pending: Pending) -> None:
        if pending.live is not None:
            pending.live.pending -= 1
            pending.live.blockers -= pending.is_blocker

    # Committing

    async def _commit_decisions(self) -> None:
        while True:
            await self._has_decisions.wait()
            self._has_decisions.clear()
            while self._decided:
                group = self._next_group()
                outcomes = await self._append([each.commit for each in group if each.commit])
                for pending in group:
                    self._step_out(pending)
                    if pending.leader is not None:
                        self._settle_follower(pending, pending.leader)
                    elif pending.live is not None:
                        outcome = next(outcomes) if pending.commit else None
                        self._conclude(pending, pending.live, outcome)
                self._return()

    def _next_group(self) -> list[Pending]:
        group = []
        events = 0
        while self._decided and events < MAX_GROUP_EVENTS:
            pending = self._decided.popleft()
            events += len(pending.commit.events) if pending.commit else 0
            group.append(pending)
        self._has_few_decisions.set()
        return group

    def _return(self) -> None:
        """Has decided what has to be decided again, or yet: all of it at once, to keep its order.

        That is what rests on events that were not committed, and what only waited for its turn.
        """
        decided, self._decided = self._decided, deque()
        for pending in decided:
            live = pending.live
            if live is not None and (live.is_lost or (pending.is_undecided and not live.blockers)):
                self._step_out(pending)
                self._decide_again(pending)
            else:
                self._decided.append(pending)
        self._has_few_decisions.set()

    async def _append(self, commits: Sequence[Commit]) -> Iterator[Outcome | TidemarkError]:
        if not commits:
            return iter(())
        begun, begun_at = measuring.now(), self._loop.time()
        try:
            outcomes = await self._log.append(commits)
        except TidemarkError as error:
            measuring.failed(error)
            self._outage.failed(error.reason, exc_info=error)
            return iter([error] * len(commits))
        finally:
            self._admission.committed_in(self._loaded_in_s + self._loop.time() - begun_at)
        self._outage.succeeded()
        measuring.committed(commits, outcomes, begun)
        return iter(outcomes)

    def _conclude(
        self, pending: Pending, live: LiveAggregate, outcome: Outcome | TidemarkError | None
    ) -> None:
        """Answers a command now that the fate of what it rests on is known."""
        match outcome:
            case Committed():
                if pending.commit and pending.commit.events:
                    live.durable_version = pending.commit.expected_version + len(
                        pending.commit.events
                    )
                    if isinstance(pending.answer, CommandReceipt):
                        pending.answer.position = outcome.position
                self._settle(pending, pending.answer)
            case WrongVersion(actual):
                COMMIT_CONFLICTS.inc()
                live.is_lost = True
                pending.attempts += 1
                if pending.attempts < MAX_ATTEMPTS:
                    self._decide_again(pending)
                else:
                    message = f"The aggregate is at version {actual}, and changes all the time"
                    self._settle(pending, Conflict("WRONG_VERSION", message, actual_version=actual))
            case Duplicate() if pending.command.is_personal and pending.attempts < MAX_ATTEMPTS:
                # Only with its key can it be told from another command; see `_decide`.
                live.is_lost = True
                pending.attempts += 1
                self._decide_again(pending)
            case Duplicate(receipt):
                live.is_lost = True
                self._settle(pending, _repeated(pending.command, receipt))
            case TidemarkError():
                live.is_lost = True
                self._settle(pending, outcome)
            case None if live.is_lost or pending.is_undecided:
                self._decide_again(pending)
            case None:
                self._settle(pending, pending.answer)

    def _settle_follower(self, pending: Pending, leader: Pending) -> None:
        committed = leader.answer
        if leader.is_settled and isinstance(committed, CommandReceipt):
            receipt = Receipt(
                committed.aggregate_id,
                committed.version,
                committed.position,
                leader.command.fingerprint,
            )
            self._settle(pending, _repeated(pending.command, receipt))
        else:
            # The first one had no effect, so this one is no repetition.
            self._decide_again(pending)

    def _decide_again(self, pending: Pending) -> None:
        self._leave(pending)
        pending.reset()
        self._returned.append(pending)
        self._has_arrivals.set()

    def _settle(self, pending: Pending, answer: Answer | None) -> None:
        """The end of a command, but for the key that it may destroy; None: its caller has gone."""
        self._leave(pending)
        pending.is_settled = True
        pending.answer = answer
        command = pending.command
        if command.erases and isinstance(answer, CommandReceipt) and not command.validate_only:
            self._erased.append(pending)
            self._has_erased.set()
        else:
            self._answer(pending, answer)

    def _answer(self, pending: Pending, answer: Answer | None) -> None:
        measuring.settled(pending, answer)
        if answer is not None:
            pending.call.answer(pending.slot, answer)
        self._in_flight -= 1
        tenant_id = pending.command.key.tenant_id
        self._in_flight_of[tenant_id] -= 1
        if self._in_flight_of[tenant_id] == 0:
            del self._in_flight_of[tenant_id]
        if self._in_flight == 0:
            self._is_idle.set()
        self._has_room.set()

    async def _destroy_keys(self) -> None:
        """Answers those who have erased something when its key is destroyed, again if need be."""
        while True:
            await self._has_erased.wait()
            self._has_erased.clear()
            erased, self._erased = self._erased, []
            failure = None
            try:
                await self._keys.destroy({_erased_by(pending) for pending in erased})
                self._key_outage.succeeded()
            except TidemarkError as error:
                self._key_outage.failed(error.reason, exc_info=error)
                failure = Unavailable(
                    "ERASURE_UNFINISHED", "It is recorded, but the key is not destroyed yet"
                )
            for pending in erased:
                self._answer(pending, failure or pending.answer)

    def _leave(self, pending: Pending) -> None:
        key = pending.command.receipt_key
        if key is not None and self._uncommitted.get(key) is pending:
            del self._uncommitted[key]


class _Loaded(NamedTuple):
    """What a batch needs; or, of what cannot be had, why."""

    receipts: Mapping[CommandKey, Receipt | TidemarkError]
    keys: Keys | TidemarkError
    failures: Mapping[AggregateKey, TidemarkError]


def _too_many(command: Command, message: str, limit: int) -> Exhausted:
    error = Exhausted("TOO_MANY_COMMANDS", message, limit=limit)
    measuring.turned_away(command, error)
    return error


def _erased_by(pending: Pending) -> AggregateKey:
    receipt = pending.answer
    assert isinstance(receipt, CommandReceipt)  # noqa: S101  # see `_settle`
    return pending.command.key._replace(aggregate_id=receipt.aggregate_id)


def _event(command: Command, payload: Message, version: int, fingerprint: bytes) -> RecordedEvent:
    # Field by field, which takes half as long as by keywords.
    event = RecordedEvent()
    event.tenant_id, event.aggregate_type, event.aggregate_id = command.key
    event.version = version
    event.correlation_id = command.correlation_id
    event.causation_id = command.command_id
    event.actor = command.actor
    event.command_fingerprint = fingerprint
    if command.traceparent:
        event.traceparent = command.traceparent
    pack_into(event.payload, payload)
    return event


def _repeated(command: Command, receipt: Receipt) -> Answer:
    """The answer to a command_id that has had its effect."""
    if receipt.fingerprint != command.fingerprint:
        return Refused(
            "COMMAND_ID_REUSED",
            "The command_id belongs to another command",
            command_id=command.command_id,
            aggregate_type=command.key.aggregate_type,
            aggregate_id=command.key.aggregate_id,
        )
    return CommandReceipt(
        command_id=command.command_id,
        aggregate_id=receipt.aggregate_id,
        version=receipt.version,
        position=receipt.position,
        duplicate=True,
    )
