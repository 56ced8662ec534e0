"""The command service, killed where an erasure is half done: DIES says where.

Runs as `python -m tests.services.dying_command_service serve`.
"""

import os
import signal
from collections.abc import Collection

from command_service.__main__ import app
from command_service.keys.sqlite import SqliteKeys
from shared.log.log import AggregateKey

DIES = "DIES"
BEFORE = "before the key is destroyed"
AFTER = "after that, before the answer"

destroy = SqliteKeys.destroy


async def dying(self: SqliteKeys, aggregates: Collection[AggregateKey]) -> None:
    if os.environ[DIES] == AFTER:
        await destroy(self, aggregates)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    SqliteKeys.destroy = dying  # type: ignore[method-assign]  # that is what it is for
    app()
