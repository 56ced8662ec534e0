"""The states that were asked for or changed last, kept in memory."""

from collections import OrderedDict

from shared.log.log import AggregateKey

MAX_BYTES = 32 << 20
ENTRY_BYTES = 500
"""What an entry takes beside its state, about."""


class StateCache:
    """Serialized states by aggregate, of one position of a projection; None: it does not exist.

    The event loop alone changes it; `peek` can be used in any thread.

    Args:
        max_bytes: beyond, those go first that were neither asked for nor changed for longest.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._states: OrderedDict[AggregateKey, bytes | None] = OrderedDict()

    def get(self, key: AggregateKey) -> bytes | None:
        """The state of an aggregate.

        Raises:
            KeyError: it is not here.
        """
        state = self._states[key]
        self._states.move_to_end(key)
        return state

    def peek(self, key: AggregateKey) -> bytes | None:
        """The same, without counting as being asked for."""
        return self._states[key]

    def put(self, key: AggregateKey, state: bytes | None) -> None:
        """Keeps the state of an aggregate, in place of the one before."""
        if key in self._states:
            self._bytes -= _size(self._states[key])
        self._states[key] = state
        self._states.move_to_end(key)
        self._bytes += _size(state)
        while self._bytes > self._max_bytes:
            _, dropped = self._states.popitem(last=False)
            self._bytes -= _size(dropped)


def _size(state: bytes | None) -> int:
    return ENTRY_BYTES + len(state or b"")
