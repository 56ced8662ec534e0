"""What a verification says."""

from collections.abc import Callable

import pytest

from shared.verification import Verification, exit_code


class Told:
    """Its exit code, its findings, its closing line, and what it says on standard error."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.errors = errors
        *self.findings, self.closing = output.splitlines() or [""]


def told(capsys: pytest.CaptureFixture[str], work: Callable[[Verification], None]) -> Told:
    """Runs a verification in this process."""
    code = exit_code("test", work)
    output, errors = capsys.readouterr()
    return Told(code, output, errors)
