"""Every metric, by name: what dashboards and alerts are written against.

Histograms and counters are kept by whoever does what they count, in the event loop. Gauges are set
when somebody asks: see each service's `gauges`. What cannot be known is NaN, never zero.
"""

from collections.abc import Sequence

from prometheus_client import Counter, Enum, Gauge
from prometheus_client.registry import Collector

from shared.telemetry.histogram import Histogram

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

STATES = ("catching_up", "live", "rebuilding", "faulted")

# Both services

CALL_SECONDS = Histogram(
    "tidemark_call_seconds",
    "From the arrival of a call that has one answer to its end, by RPC and status code",
    ("rpc", "code"),
    bounds=SECONDS,
)
STREAMS_ENDED = Counter(
    "tidemark_streams_ended",
    "Streams that have ended, by RPC and status code",
    ("rpc", "code"),
    registry=None,
)
STREAMS_OPEN = Gauge("tidemark_streams_open", "Streams that are open", ("rpc",), registry=None)
LOG_HEAD_POSITION = Gauge(
    "tidemark_log_head_position",
    "Position of the last durable event of this service's log, or copy of it",
    registry=None,
)
SUBSCRIBERS = Gauge(
    "tidemark_subscribers",
    "Open subscriptions to events, by what they read: everything, or a selection",
    ("reads",),
    registry=None,
)
SUBSCRIBER_LAG_EVENTS = Gauge(
    "tidemark_subscriber_lag_events",
    "Positions between this service's head and the subscriber that is furthest behind; NaN: none",
    registry=None,
)

# The command service

COMMAND_SECONDS = Histogram(
    "tidemark_command_seconds",
    "From a command's submission to its answer, by command and outcome: accepted, duplicate,"
    " validated, abandoned, or the reason why it was refused or failed",
    ("command", "outcome"),
    bounds=SECONDS,
)
COMMANDS_IN_FLIGHT = Gauge(
    "tidemark_commands_in_flight", "Commands that are taken on and not answered", registry=None
)
COMMANDS_DECIDED = Gauge(
    "tidemark_commands_decided",
    "Those of them that wait for the next commit",
    registry=None,
)
COMMIT_SECONDS = Histogram(
    "tidemark_commit_seconds",
    "From handing a group of commands to the log to its being durable: the fsync, mostly",
    bounds=SECONDS,
)
COMMIT_COMMANDS = Histogram("tidemark_commit_commands", "Commands in one commit", bounds=SIZES)
COMMITS_FAILED = Counter(
    "tidemark_commits_failed",
    "Groups of commands that the log did not take, by reason",
    ("reason",),
    registry=None,
)
COMMIT_CONFLICTS = Counter(
    "tidemark_commit_conflicts",
    "Commands to be decided again because another writer was first",
    registry=None,
)
AGGREGATES_ASKED = Counter(
    "tidemark_aggregates_asked",
    "Commands by whether their aggregate was in memory (hit) or had to be read (miss)",
    ("cache",),
    registry=None,
)

# The query service

UPSTREAM_IN_TOUCH = Gauge(
    "tidemark_upstream_in_touch",
    "1 if the command service's head was heard of within the last seconds, 0 if not",
    registry=None,
)
UPSTREAM_LOST = Counter(
    "tidemark_upstream_lost",
    "Connections to the upstream that ended, or could not be made, by why; each is tried again",
    ("why",),
    registry=None,
)
COPY_FAULTED = Gauge(
    "tidemark_copy_faulted",
    "1 if following has stopped for good, since this copy is of another log, 0 if not",
    registry=None,
)
COPY_LAG_EVENTS = Gauge(
    "tidemark_copy_lag_events",
    "Positions between the command service's head and this copy of its log; NaN: not known",
    registry=None,
)
PROJECTION_POSITION = Gauge(
    "tidemark_projection_position",
    "Position up to which a projection contains every event",
    ("projection",),
    registry=None,
)
PROJECTION_LAG_EVENTS = Gauge(
    "tidemark_projection_lag_events",
    "Positions between the command service's head and a projection; NaN: not known",
    ("projection",),
    registry=None,
)
PROJECTION_LAG_SECONDS = Gauge(
    "tidemark_projection_lag_seconds",
    "Age of the oldest event that a projection lacks, 0 if it has all; NaN: not known",
    ("projection",),
    registry=None,
)
PROJECTION_STATE = Enum(
    "tidemark_projection_state",
    "State of a projection",
    ("projection",),
    states=list(STATES),
    registry=None,
)
REBUILDS = Counter(
    "tidemark_rebuilds",
    "Rebuilds that have ended, by outcome: done, or the reason of the failure",
    ("projection", "outcome"),
    registry=None,
)
STATES_ASKED = Counter(
    "tidemark_states_asked",
    "Aggregates that were asked for by whether they were in memory (hit) or had to be read (miss)",
    ("projection", "cache"),
    registry=None,
)

# A series that is there from the start shows its first increase.
for reason in ("DISK_FULL", "LOG_UNAVAILABLE"):
    COMMITS_FAILED.labels(reason)
for why in ("UNAVAILABLE", "SILENT"):
    UPSTREAM_LOST.labels(why)

OF_BOTH: Sequence[Collector] = (
    CALL_SECONDS,
    STREAMS_ENDED,
    STREAMS_OPEN,
    LOG_HEAD_POSITION,
    SUBSCRIBERS,
    SUBSCRIBER_LAG_EVENTS,
)
OF_COMMANDS: Sequence[Collector] = (
    *OF_BOTH,
    COMMAND_SECONDS,
    COMMANDS_IN_FLIGHT,
    COMMANDS_DECIDED,
    COMMIT_SECONDS,
    COMMIT_COMMANDS,
    COMMITS_FAILED,
    COMMIT_CONFLICTS,
    AGGREGATES_ASKED,
)
OF_QUERIES: Sequence[Collector] = (
    *OF_BOTH,
    UPSTREAM_IN_TOUCH,
    UPSTREAM_LOST,
    COPY_FAULTED,
    COPY_LAG_EVENTS,
    PROJECTION_POSITION,
    PROJECTION_LAG_EVENTS,
    PROJECTION_LAG_SECONDS,
    PROJECTION_STATE,
    REBUILDS,
    STATES_ASKED,
)
