"""Why a benchmark has no result."""


class BenchmarkFailed(Exception):
    """An operation failed, or did something else than what was to be measured."""
