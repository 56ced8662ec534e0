"""The kinds of targets: a module each, and a line here."""

from enum import StrEnum

from query_service.relay.target import Target


class TargetKind(StrEnum):
    """What `--to` can name."""

    CELERY = "celery"


def open_target(kind: TargetKind, broker: str, queues: int) -> Target:
    """A target of the kind; it connects when it is sent something.

    Raises:
        ValueError: the broker is none that the target can speak to.
        ImportError: the extra `relay` is not installed.
    """
    match kind:
        case TargetKind.CELERY:
            from query_service.relay.targets.celery import CeleryTarget  # noqa: PLC0415  # an extra

            return CeleryTarget(broker, queues)
