"""What is personal of an aggregate, on its way from a command to the log.

The rules know nothing of it. Between them and the log the personal fields of what they decided are
encrypted, and what is folded from it, states and snapshots, has them encrypted, too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from command_service.calls import Pending
from command_service.command import Command
from command_service.keys.store import KeyStore
from shared.errors import Refused, TidemarkError
from shared.log.log import AggregateKey, CommandKey, Receipt
from shared.personal.fields import personal_fields
from shared.personal.sealing import DESTROYED, Keys, is_keyed, keyed_fingerprint, seal

Receipts = Mapping[CommandKey, Receipt | TidemarkError]


async def keys_for(
    store: KeyStore, batch: Iterable[Pending], receipts: Receipts
) -> Keys | TidemarkError:
    """The keys that commands need, made where there are none; or why there are none to be had.

    Whoever has had an effect already needs the key only to be recognized.
    """
    new: set[AggregateKey] = set()
    repeated: set[AggregateKey] = set()
    for command in (each.command for each in batch):
        if command.is_personal and not command.validate_only:
            receipt = receipts.get(command.receipt_key) if command.receipt_key else None
            if isinstance(receipt, Receipt):
                repeated.add(_of_receipt(command, receipt))
            else:
                new.add(command.key)
    try:
        keys = dict(await store.find(repeated)) if repeated else {}
        return keys | dict(await store.make(new)) if new else keys
    except TidemarkError as error:
        return error


def sealed_payloads(
    command: Command, payloads: Sequence[Message], version: int, keys: Keys
) -> Sequence[Message]:
    """What was decided at a version of its aggregate, as the log is to have it.

    Raises:
        Refused: PERSON_ERASED: the aggregate's key is destroyed, though the log, which may have
            been restored, does not say so.
        TypeError: what is personal did not come from the command.
    """
    if not command.is_personal:
        if any(personal_fields(type(payload)) for payload in payloads):
            name = command.message.DESCRIPTOR.full_name
            raise TypeError(f"{name} has no personal fields, and what it causes has")
        return payloads
    key = keys[command.key]
    if key == DESTROYED:
        raise Refused("PERSON_ERASED", "What was personal under this id has been erased")
    return [
        seal(payload, command.key, number, key)
        for number, payload in enumerate(payloads, version + 1)
    ]


def fingerprint_of(command: Command, keys: Keys) -> bytes:
    """The command's fingerprint as its events are to have it."""
    if not command.is_personal or not command.fingerprint:
        return command.fingerprint
    return keyed_fingerprint(command.fingerprint, keys[command.key])


def recognized(command: Command, receipt: Receipt, keys: Keys) -> Receipt:
    """The receipt of an earlier command under the same id, with a fingerprint to compare.

    If its key is destroyed, nobody can tell any more what that command said: it was this one.
    """
    if not command.is_personal or not is_keyed(receipt.fingerprint):
        return receipt
    key = keys.get(_of_receipt(command, receipt))
    if key is None:
        return receipt
    if key == DESTROYED or keyed_fingerprint(command.fingerprint, key) == receipt.fingerprint:
        return replace(receipt, fingerprint=command.fingerprint)
    return receipt


def _of_receipt(command: Command, receipt: Receipt) -> AggregateKey:
    return command.key._replace(aggregate_id=receipt.aggregate_id)
