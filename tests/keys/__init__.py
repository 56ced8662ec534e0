"""The key store: one contract, and its adapters."""

import pytest

# It holds tests without being a test module, and is to explain its failures like one.
pytest.register_assert_rewrite("tests.keys.contract")
