"""Copies keys into another store: where the log moves, they have to move as well."""

from command_service.keys.store import KeyStore


async def copy_keys(source: KeyStore, target: KeyStore) -> int:
    """Has the target take all keys of the source, and what was destroyed there.

    Copied again, it takes what came since.

    Returns:
        How many there are in the source.

    Raises:
        DataLoss: KEYS_DIVERGED: the target has another key of some aggregate.
    """
    count, after = 0, None
    while page := await source.page(after):
        await target.keep(page)
        count += len(page)
        *_, after = page
    return count
