"""Reads the metrics of a running service, as Prometheus does."""

import asyncio
import json
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

METRICS = ("--metrics", "127.0.0.1:0")
SCRAPE_S = 10.0


def url_in(log: Path) -> str:
    """Where a service exposes its metrics, by its log."""
    lines = (json.loads(line) for line in log.read_text().splitlines())
    return str([line["url"] for line in lines if line["event"] == "metrics_exposed"][-1])


async def scraped(log: Path) -> list[Sample]:
    """What a service exposes, found by its log."""
    return await asyncio.to_thread(samples_at, url_in(log))


def samples_at(url: str) -> list[Sample]:
    with urllib.request.urlopen(url, timeout=SCRAPE_S) as response:  # noqa: S310  # of a service that the test started
        text = response.read().decode()
    return [each for family in text_string_to_metric_families(text) for each in family.samples]


def value_of(samples: list[Sample], name: str, **labels: str) -> float:
    """The only value of that name and those labels, among others."""
    [value] = [
        each.value
        for each in samples
        if each.name == name and labels.items() <= each.labels.items()
    ]
    return value
