"""One run: services, clients, a fault in the middle of it all, and what the checker says of it."""

import asyncio
import contextlib
import json
import pickle
import random
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc

from examples.services import ServiceFailed
from tests.history.checker import check
from tests.history.coverage import counted, missing
from tests.history.recorded import (
    Call,
    Failure,
    History,
    Recovery,
    Subscription,
    Unknown,
    Watch,
)
from tests.history.unforeseen import unforeseen
from tests.services.deployment import CommandClient, QueryClient
from tests.services.operating import UNFORESEEN
from tests.torture.aftermath import PROJECTIONS, rebuild, survey
from tests.torture.faults import Fault, Unnoticed
from tests.torture.followers import Subscriber, watch
from tests.torture.machine import MachineFailed
from tests.torture.recorder import Line, Recorder, command_id_of, is_final
from tests.torture.stage import Stage, TooSlow, stage
from tests.torture.workload import RunFailed, Workload
from tests.torture.world import HOT, PACE_S, TENANTS, World
from tidemark.v1.command_pb2 import CommandReceipt
from tidemark.v1.event_pb2 import EventFilter, RecordedEvent
from tidemark.v1.ship_pb2 import WatchShipRequest
from tidemark.v1.user_pb2 import CreateUser, GetUserRequest, WatchUserRequest

BEFORE_S = (0.3, 0.9)
"""From when all clients are at it until the fault."""

AFTER_S = 0.3
RECOVERY_S = 10.0
END_S = 50.0
"""Until every client has come to an end after it was told to."""

STOPPED = {"projection_faulted", "rebuild_faulted"}
"""What a rebuild, such as those of a run, mends before anybody looks."""

UNAWAITED = ("Exception in", "Task exception")
"""How asyncio's own words begin of a failure that nobody waited for."""

FAILURES = (
    RunFailed,
    ServiceFailed,
    MachineFailed,
    TooSlow,
    Unnoticed,
    TimeoutError,
    grpc.aio.AioRpcError,
)


@dataclass(frozen=True)
class Verdict:
    """What came of a run."""

    fault: str
    seed: int
    acknowledged: int
    unknown: int
    """Commands with a command_id to which at least one attempt got no answer."""
    resolved: int
    """Of these, the ones whose outcome became known by asking again."""
    lost: int
    duplicated: int
    recovery_s: float
    pause_s: float
    """The longest time in which no command was acknowledged."""
    complaints: tuple[str, ...]
    """Each a sentence; none: all promises were kept."""
    occurred: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of thing did that has to occur."""

    @classmethod
    def unfinished(cls, fault: Fault, seed: int, why: str) -> "Verdict":
        """Of a run that came to no end, so that there is nothing to be judged."""
        return cls(fault.name, seed, 0, 0, 0, 0, 0, 0.0, 0.0, (f"The run came to no end: {why}",))


async def play(fault: Fault, seed: int, folder: Path, pace_s: float = PACE_S) -> Verdict:
    """Runs the workload with a fault in it, and judges.

    Args:
        fault: what goes wrong.
        seed: decides what is left to chance, but for when what happens.
        folder: an empty one.
        pace_s: between two moves of a client.
    """
    history = History()
    complaints: list[str] = []
    try:
        await _play(fault, seed, folder, pace_s, history, complaints)
    except FAILURES as error:
        verdict = Verdict.unfinished(fault, seed, f"{type(error).__name__}: {error}")
    else:
        kinds = missing(history)
        complaints += [f"It proves nothing of {kind}, which did not occur" for kind in kinds]
        for each, strike in zip(fault.one_by_one, history.strikes, strict=True):
            complaints += not_felt(each, strike, history.calls)
        complaints += unforeseen(history, is_damaged=fault.is_damage)
        verdict = _verdict(fault, seed, history, complaints)
    if verdict.complaints:
        # What the clients saw depends on more than the seed.
        content = await asyncio.to_thread(pickle.dumps, history)
        await asyncio.to_thread((folder / "history.pickle").write_bytes, content)
    return verdict


def not_felt(fault: Fault, strike: tuple[float, float], calls: Sequence[Call]) -> Iterator[str]:
    """What should have been seen of the fault while it was there, and was not."""
    began, ended = strike
    answers = [call.answer for call in calls if call.ended > began and call.invoked < ended]
    failures = [
        str(answer)
        for answer in answers
        if isinstance(answer, Unknown)
        # To be behind is no sign of a fault.
        or (isinstance(answer, Failure) and answer.reason != "PROJECTION_BEHIND")
    ]
    for what in fault.felt_as:
        if not any(what in failure for failure in failures):
            yield f"Nobody felt it: during {fault.name}, no answer was {what}"
    if fault.reads_go_on and not any(
        call.server == "query" and began < call.invoked and call.ended < ended
        for call in calls
        if not isinstance(call.answer, Failure | Unknown)
    ):
        yield f"No query was answered during {fault.name}"


def _mistakes(actors: Stage, *, is_damaged: bool) -> Iterator[str]:
    """What the services have told their operator that only a mistake in the program explains."""
    grave = UNFORESEEN | STOPPED if is_damaged else UNFORESEEN | STOPPED | {"following_stopped"}
    for party in actors.parties:
        for line in party.output.read_text().splitlines():
            event = _event_in(line)
            if event in grave or event.startswith(UNAWAITED) or line.startswith("Traceback"):
                yield f"The {party.name} service said {line}"


def _event_in(line: str) -> str:
    """What a line of a service's log tells of; one that a kill has cut short tells nothing."""
    try:
        event: str = json.loads(line)["event"]
    except (ValueError, KeyError, TypeError):
        return ""
    return event


async def _play(
    fault: Fault,
    seed: int,
    folder: Path,
    pace_s: float,
    history: History,
    complaints: list[str],
) -> None:
    choose = random.Random(f"{fault.name} {seed}")  # noqa: S311  # no secret
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(fault.place(folder))
        database = await stack.enter_async_context(fault.database())
        actors = await stack.enter_async_context(
            stage(
                folder,
                fault.command,
                fault.query,
                place,
                fault.log,
                fault.others,
                fault.other_queries,
                database,
            )
        )
        async with _clients(history, actors, seed, pace_s, complaints) as clients:
            await asyncio.sleep(choose.uniform(*BEFORE_S))
            for each in fault.one_by_one:
                began = time.monotonic()
                await each.strike(actors, choose)
                history.strikes.append((began, time.monotonic()))
            recovery = await _recovery(history, actors, seed, fault.patience.recovery_s)
            starting_s = max(each.longest_restart_s for each in actors.parties)
            history.recovery = replace(recovery, seconds=recovery.seconds + starting_s)
            await _until_everything_occurred(history, fault.patience.everything_s)
            await clients.finish()
            complaints += await survey(history, actors)
            complaints += _mistakes(actors, is_damaged=fault.is_damage)
            if not complaints:
                await clients.catch_up(len(history.log.records))


async def _until_everything_occurred(history: History, patience_s: float) -> None:
    """Lets the clients go on for a while, and until they have done all that they can do."""
    for _ in range(round(patience_s / AFTER_S)):
        await asyncio.sleep(AFTER_S)
        if not missing(history):
            return


class _Clients:
    """Everybody who calls the services during a run."""

    def __init__(
        self,
        workload: Workload,
        writing: list[asyncio.Task[None]],
        reading: list[asyncio.Task[None]],
        subscribers: dict[asyncio.Task[None], Subscriber],
        complaints: list[str],
    ) -> None:
        self._workload = workload
        self._writing = writing
        self._reading = reading
        self._subscribers = subscribers
        self._complaints = complaints

    async def finish(self) -> None:
        """Has the writers and the readers come to an end."""
        self._workload.stop()
        _, late = await asyncio.wait(self._writing, timeout=END_S)
        if late:
            raise RunFailed(f"{len(late)} clients came to no end within {END_S:.0f} s")
        await asyncio.gather(*self._writing)
        for each in self._reading:
            each.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)

    async def catch_up(self, position: int) -> None:
        """Has the subscribers come to the head, or complains."""
        for task in self._subscribers:
            task.cancel()
        await asyncio.gather(*self._subscribers, return_exceptions=True)
        late = [self._catch_up(each, position) for each in self._subscribers.values()]
        await asyncio.gather(*late)

    async def _catch_up(self, subscriber: Subscriber, position: int) -> None:
        try:
            async with asyncio.timeout(RECOVERY_S):
                await subscriber.until(position)
        except TimeoutError:
            self._complaints.append(
                f"A subscriber came no further than {subscriber.position} of {position}:"
                f" {subscriber.last_error}"
            )


@asynccontextmanager
async def _clients(
    history: History, actors: Stage, seed: int, pace_s: float, complaints: list[str]
) -> AsyncIterator[_Clients]:
    async with AsyncExitStack() as stack:
        addresses = actors.command_address, actors.query_address

        def recorder(name: str, tenant_id: str) -> Recorder:
            made = Recorder(history, name, tenant_id, *addresses)
            stack.push_async_callback(made.close)
            return made

        worlds = {tenant_id: World(pace_s) for tenant_id in TENANTS}
        workload = Workload(worlds, recorder, seed)
        await workload.found()
        tasks: list[asyncio.Task[None]] = []

        def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            tasks.append(asyncio.create_task(work))
            return tasks[-1]

        lines: list[Line[Any]] = []

        def line(kind: type[CommandClient | QueryClient], address: str) -> Line[Any]:
            lines.append(Line(kind, address))
            return lines[-1]

        try:
            writing = [start(each) for each in workload.writing()]
            reading = [start(each) for each in workload.reading()]
            reading.append(start(_rebuild_again_and_again(history, actors)))
            for watched in _watches():
                history.watches.append(watched)
                reading.append(start(watch(watched, line(QueryClient, addresses[1]))))
            subscribers = {}
            for number, (kind, record) in enumerate(_subscriptions()):
                history.subscriptions.append(record)
                address = addresses[0] if kind is CommandClient else addresses[1]
                subscriber = Subscriber(record, line(kind, address))
                patience = 20 if number % 2 else 1_000_000
                following = _follow(subscriber, patience, worlds)
                subscribers[start(following)] = subscriber
            yield _Clients(workload, writing, reading, subscribers, complaints)
        finally:
            for task in tasks:
                task.cancel()
            endings = await asyncio.gather(*tasks, return_exceptions=True)
            complaints += [
                f"A client of the run is wrong: {each!r}"
                for each in endings
                if isinstance(each, Exception)
            ]
            for each in lines:
                await each.close()


def _subscriptions() -> list[tuple[type[CommandClient | QueryClient], Subscription]]:
    everything = EventFilter()
    ships = EventFilter(aggregate_types=["ship"])
    hot = EventFilter(aggregate_ids=HOT[:1])
    docked = EventFilter(event_types=["tidemark.v1.ShipDocked"])
    return [
        (CommandClient, Subscription("subscriber-1", "*", everything)),
        (QueryClient, Subscription("subscriber-2", "*", everything)),
        (CommandClient, Subscription("subscriber-3", "red", ships)),
        (QueryClient, Subscription("subscriber-4", "blue", hot)),
        (QueryClient, Subscription("subscriber-5", "red", docked)),
    ]


def _watches() -> list[Watch]:
    return [
        Watch("watcher-1", "red", WatchShipRequest(ship_id=HOT[0])),
        Watch("watcher-2", "blue", WatchUserRequest(user_id=HOT[1])),
    ]


async def _follow(subscriber: Subscriber, patience: int, worlds: dict[str, World]) -> None:
    """Follows the log, and tells the others of the moments at which something happened."""
    position = 1
    while True:
        await subscriber.until(position, patience)
        position = subscriber.position + 1
        if subscriber.newest is not None and subscriber.newest.events:
            event = RecordedEvent.FromString(subscriber.newest.events[0])
            worlds[event.tenant_id].times.append(event.occurred_at)


async def _rebuild_again_and_again(history: History, actors: Stage) -> None:
    line = Line(QueryClient, actors.query_address)
    try:
        while True:
            for name in PROJECTIONS:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await rebuild(history, line.client, name)
                await asyncio.sleep(AFTER_S)
    finally:
        await line.close()


async def _recovery(history: History, actors: Stage, seed: int, patience_s: float) -> Recovery:
    """How long it takes until a new client's command is acknowledged, and is seen everywhere."""
    began = time.monotonic()
    user_id = f"probe-{seed}"
    command = CreateUser(user_id=user_id, username="red probe", balance=1)
    command.context.command_id = str(UUID(int=seed + 1, version=4))
    answer: object = None
    while time.monotonic() < began + patience_s:
        probes = [
            Recorder(history, "probe", "red", actors.command_address, each.proxies[0].address)
            for each in actors.query_parties
        ]
        try:
            if not isinstance(answer, CommandReceipt):
                answer = await probes[0].command(command)
            if isinstance(answer, CommandReceipt):
                request = GetUserRequest(user_id=user_id, min_position=answer.position)
                shown = [await probe.ask(request) for probe in probes]
                if not any(isinstance(each, Failure | Unknown) for each in shown):
                    return Recovery(time.monotonic() - began, RECOVERY_S)
        finally:
            for probe in probes:
                await probe.close()
    return Recovery(time.monotonic() - began, RECOVERY_S, ("Nothing new was to be seen",))


def _verdict(fault: Fault, seed: int, history: History, complaints: list[str]) -> Verdict:
    violations = check(history)
    complaints = [
        f"Invariant {each.invariant}: {each.sentence}" for each in violations
    ] + complaints
    unknown, resolved = _outcomes(history.calls)
    if len(resolved) < len(unknown):
        first = min(unknown - resolved)
        complaints.append(f"{len(unknown - resolved)} outcomes remain unknown, as that of {first}")
    receipts = [call for call in history.calls if _is_acknowledged(call)]
    return Verdict(
        fault.name,
        seed,
        acknowledged=len(receipts),
        unknown=len(unknown),
        resolved=len(resolved),
        lost=_lost(history, receipts),
        duplicated=_duplicated(history),
        recovery_s=history.recovery.seconds,
        pause_s=_longest_pause(receipts),
        complaints=tuple(complaints),
        occurred=dict(counted(history)),
    )


def _is_acknowledged(call: Call) -> bool:
    return isinstance(call.answer, CommandReceipt) and call.answer.position > 0


def _outcomes(calls: list[Call]) -> tuple[set[str], set[str]]:
    """The commands of which one attempt stayed unanswered; and those of them that are known."""
    unknown, known = set(), set()
    for call in calls:
        if call.server != "command" or not (command_id := command_id_of(call.request)):
            continue
        command = f"{command_id} of {call.tenant_id}"
        if isinstance(call.answer, Unknown):
            unknown.add(command)
        elif is_final(call.answer):
            known.add(command)
    return unknown, unknown & known


def _lost(history: History, receipts: list[Call]) -> int:
    """Receipts that the log has nothing of."""
    events = _by_position(history)
    return sum(
        call.answer.position not in events  # type: ignore[union-attr]  # a receipt
        or events[call.answer.position].causation_id != call.answer.command_id  # type: ignore[union-attr]  # the same
        for call in receipts
    )


def _longest_pause(receipts: list[Call]) -> float:
    """Between two commands that were acknowledged for the first time."""
    times = sorted(call.ended for call in receipts if not call.answer.duplicate)  # type: ignore[union-attr]  # a receipt
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


def _duplicated(history: History) -> int:
    """Commands that had a second effect: none of them causes more than one event."""
    seen: set[tuple[str, str]] = set()
    again: set[tuple[str, str]] = set()
    for event in _by_position(history).values():
        key = event.tenant_id, event.causation_id
        (again if key in seen else seen).add(key)
    return len(again)


def _by_position(history: History) -> dict[int, RecordedEvent]:
    events = map(RecordedEvent.FromString, history.log.records)
    return {event.position: event for event in events}
