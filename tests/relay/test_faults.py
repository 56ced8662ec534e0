"""Every event arrives, in order, whichever of the programs on its way is killed."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.relay.arrivals import Arrival, listening
from tests.relay.stage import stage
from tests.services.caller import Caller
from tests.services.deployment import deployment
from tests.services.histories import WholeLog
from tests.services.traffic import traffic
from tidemark.v1.event_pb2 import RecordedEvent

QUEUES = ("tidemark-0", "tidemark-1", "tidemark-2")
COUNT = 200


async def test_every_event_arrives_in_order_when_relay_worker_and_broker_are_killed(
    tmp_path: Path,
) -> None:
    async with (
        deployment(tmp_path) as both,
        listening() as arrivals,
        stage(tmp_path) as on,
    ):
        queues = ("--queues", str(len(QUEUES)))
        worker = await on.start_worker(arrivals, *QUEUES)
        await Caller(both.commands, both.queries, "acme").do(*traffic(1, COUNT))

        relay = await on.start_relay(both.query.address, *queues)
        await arrivals.until_begun(1)
        await relay.kill()
        waiting = sum([await on.broker.client.llen(queue) for queue in QUEUES])
        assert waiting + len(arrivals.begun) < COUNT

        relay = await on.start_relay(both.query.address, *queues)
        async with arrivals.in_hand() as in_hand:
            await worker.kill()
        await on.start_worker(arrivals, *QUEUES)
        await arrivals.until_done([in_hand.id])

        await on.broker.kill()
        await Caller(both.commands, both.queries, "another").do(*traffic(2, COUNT))
        await relay.said("not_taken")
        await on.broker.start()

        events = (await WholeLog.of(both.commands)).events
        assert len(events) == 2 * COUNT
        await arrivals.until_done([event.event_id for event in events])
        assert await relay.stop() == 0

    assert_promised(arrivals.begun, events)
    assert [each.is_redelivered for each in arrivals.begun if each.id == in_hand.id][-1]


def assert_promised(begun: Sequence[Arrival], events: Sequence[RecordedEvent]) -> None:
    """What is promised of tasks that workers have begun, repeats included."""
    first = {arrival.id: arrival for arrival in reversed(begun)}
    assert first.keys() == {event.event_id for event in events}
    for event in events:
        arrived = first[event.event_id]
        assert arrived.task == event.payload.type_url.rpartition("/")[2]
        assert arrived.headers["position"] == event.position

    # What a killed worker had in hand comes again later, and is marked.
    versions = defaultdict(list)
    for arrival in dict.fromkeys(each.id for each in begun if not each.is_redelivered):
        headers = first[arrival].headers
        versions[first[arrival].event["tenant_id"], headers["aggregate_id"]].append(
            headers["version"]
        )
    for found in versions.values():
        assert found == list(range(1, len(found) + 1))
