"""The rules: one module per aggregate, and the list of those that this service serves."""

from typing import Any

from command_service.aggregates.rules import Rules
from command_service.aggregates.ship import SHIP_RULES
from command_service.aggregates.user import USER_RULES

RULES: tuple[Rules[Any], ...] = (
    SHIP_RULES,
    USER_RULES,
)
