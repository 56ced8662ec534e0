"""A histogram for one thread.

prometheus-client's own, which any thread may use, takes more than a microsecond for each
observation, most of it for locks. Every command is observed twice, in the event loop, where this
takes a fifth of that.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Observations:
    """What was observed under the same labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """In each bucket; the last is beyond the last bound."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Adds one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Collector):
    """See the module's description.

    Args:
        name: of the metric.
        documentation: a sentence.
        labels: their names.
        bounds: the upper ones of its buckets, ascending.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, bounds: Sequence[float]
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = bounds
        self._observations: dict[tuple[str, ...], Observations] = {}
        if not labels:
            self.labels()

    def labels(self, *values: str) -> Observations:
        """What was observed under these labels; cheap enough to be asked for each time."""
        observations = self._observations.get(values)
        if observations is None:
            observations = self._observations[values] = Observations(self._bounds)
        return observations

    def observe(self, value: float) -> None:
        """Adds one to a histogram without labels."""
        self.labels().observe(value)

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metric without what was observed."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric, for a registry."""
        [family] = self.describe()
        bounds = [*map(str, self._bounds), "+Inf"]
        for values, observations in list(self._observations.items()):
            buckets = list(zip(bounds, accumulate(observations.counts), strict=True))
            family.add_metric(values, buckets, observations.total)
        yield family
