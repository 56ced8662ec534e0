import pytest

from shared.log.memory import MemoryLog
from tests.log.builders import Clock
from tests.log.contract import LogContract


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self, clock: Clock) -> MemoryLog:
        return MemoryLog(clock)
