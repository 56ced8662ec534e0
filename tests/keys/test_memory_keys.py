import pytest

from tests.keys.contract import KeyStoreContract
from tests.keys.memory import MemoryKeys


class TestMemoryKeys(KeyStoreContract):
    @pytest.fixture
    def keys(self) -> MemoryKeys:
        return MemoryKeys()
