"""What `verify` says: a sentence for each finding, how far it is, and what it has counted."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

MAX_TOLD = 100
"""Findings beyond are only counted."""

EXIT_FOUND = 1
EXIT_UNREADABLE = 2

Find = Callable[[str], None]
"""Takes a finding: a sentence that says where it is."""

Advance = Callable[[int], None]
"""Takes how far a step has come."""


class Unreadable(Exception):
    """There is nothing that could be verified; the message is a sentence for the operator."""


class Verification:
    """One run, told on standard output; on a terminal with a bar."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._findings = 0
        self._counts: Counter[str] = Counter()

    def find(self, sentence: str) -> None:
        """Tells a finding, which does not end the run."""
        self._findings += 1
        if self._findings <= MAX_TOLD:
            self._console.print(sentence)

    def count(self, noun: str, number: int) -> None:
        """Adds to what was verified, for the closing line."""
        self._counts[noun] += number

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Advance]:
        """Shows how far a part of the run is; without a total, only that it runs."""
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            task = progress.add_task(title, total=total)
            yield lambda to: progress.update(task, completed=to)

    def conclude(self) -> int:
        """Tells the closing line, and returns the exit code."""
        verified = ", ".join(_counted(number, noun) for noun, number in self._counts.items())
        found = _counted(self._findings, "finding")
        if self._findings > MAX_TOLD:
            found += f", the first {MAX_TOLD} of which are told"
        self._console.print(f"{verified} verified, {found}")
        return EXIT_FOUND if self._findings else 0


def exit_code(name: str, work: Callable[[Verification], None]) -> int:
    """Runs a verification to its end.

    Returns:
        The exit code: 0 nothing was found, 1 something was, 2 it could not be read: standard error
        has the sentence.
    """
    verification = Verification()
    try:
        work(verification)
    except (Unreadable, OSError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return EXIT_UNREADABLE
    return verification.conclude()


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
