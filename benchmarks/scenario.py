"""Scenarios, and how they are measured: in rounds that alternate with a reference."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measurement import Curve, Measurement, Round, ScenarioResult, SideResult, Spread
from benchmarks.stage import Stage


@dataclass(frozen=True)
class Side:
    """What can be measured again and again, for example with `benchmarks.driving.under_load`."""

    name: str
    measure: Callable[[], Awaitable[Measurement]]


@dataclass(frozen=True)
class Comparison:
    """A subject, and the reference that it is measured by.

    Args:
        reference: measured first in each round.
        subject: measured next.
        figures: what else there is to know, by its name and unit; a scenario may add to it until
            its context ends.
        curves: what happened over time, by its name: points of (seconds, value); likewise.
    """

    reference: Side
    subject: Side
    figures: dict[str, float] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """Something to measure.

    Args:
        name: unique in its group, fit for a file name.
        title: what is measured, in a few words.
        unit: what an operation is, in the plural.
        compare: sets everything up on a stage.
        parameters: for example how many callers there are.
        is_long: only measured when asked for.
        max_rounds: fewer than for the others, where a round takes long; None: as many.
    """

    name: str
    title: str
    unit: str
    compare: Callable[[Stage], AbstractAsyncContextManager[Comparison]]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    is_long: bool = False
    max_rounds: int | None = None


@dataclass(frozen=True)
class Group:
    """Scenarios that are reported together.

    Args:
        name: as `--only` takes it.
        title: what they are about.
        scenarios: in the order in which they are measured.
        plot: draws the results into a file.
    """

    name: str
    title: str
    scenarios: Sequence[Scenario]
    plot: Callable[[Sequence[ScenarioResult], Path], None] | None = None


async def measured(
    scenario: Scenario, stage: Stage, progress: Callable[[Round], None]
) -> ScenarioResult:
    """Measures a scenario.

    Args:
        scenario: what to measure.
        stage: where nothing runs yet.
        progress: told of each.
    """
    rounds = []
    count = min(stage.conditions.rounds, scenario.max_rounds or stage.conditions.rounds)
    async with scenario.compare(stage) as comparison:
        for _ in range(count):
            reference = await comparison.reference.measure()
            subject = await comparison.subject.measure()
            rounds.append(Round(reference, subject))
            progress(rounds[-1])
    return ScenarioResult(
        name=scenario.name,
        title=scenario.title,
        unit=scenario.unit,
        parameters=dict(scenario.parameters),
        ratio=Spread.of([each.ratio for each in rounds]),
        subject=SideResult.of(comparison.subject.name, [each.subject for each in rounds]),
        reference=SideResult.of(comparison.reference.name, [each.reference for each in rounds]),
        figures=comparison.figures,
        curves=comparison.curves,
    )
