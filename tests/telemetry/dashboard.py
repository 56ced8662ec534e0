"""The queries of the dashboard, and whether what a service exposes can answer them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import promql_parser
from prometheus_client.samples import Sample
from promql_parser import AggregateExpr, MatchOp, VectorSelector

DASHBOARD = Path(__file__).parents[2] / "dashboards" / "tidemark.json"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus adds to what it scrapes."""


class Query(NamedTuple):
    """One of a panel's."""

    panel: str
    expression: str

    @property
    def parsed(self) -> promql_parser.Expr:
        """Grafana puts a duration in the place of its variable."""
        return promql_parser.parse(self.expression.replace("$__rate_interval", "1m"))


def queries() -> Iterator[Query]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield Query(panel["title"], target["expr"])


def selectors_of(query: Query) -> list[VectorSelector]:
    """What a query reads."""
    return [each for each in _nodes(query) if isinstance(each, VectorSelector)]


def grouped_by(query: Query) -> set[str]:
    """The labels that a query groups by."""
    aggregations = [each for each in _nodes(query) if isinstance(each, AggregateExpr)]
    labels = [each.modifier.labels for each in aggregations if each.modifier]
    return {label for several in labels for label in several} - OF_PROMETHEUS


def selects(selector: VectorSelector, sample: Sample) -> bool:
    """Whether a selector takes a sample."""
    return sample.name == selector.name and all(
        _matches(matcher.op, matcher.value, sample.labels.get(matcher.name, ""))
        for matcher in selector.matchers.matchers
    )


def _nodes(query: Query) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(query.parsed, nodes.append)
    return nodes


def _matches(op: MatchOp, pattern: str, value: str) -> bool:
    match op:
        case MatchOp.Equal:
            return value == pattern
        case MatchOp.NotEqual:
            return value != pattern
        case MatchOp.Re:
            return re.fullmatch(pattern, value) is not None
        case _:
            return re.fullmatch(pattern, value) is None
