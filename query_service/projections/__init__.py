"""The views: one module per aggregate, and the list of those that this service serves."""

from typing import Any

from query_service.projection import Projection
from query_service.projections.ship import SHIPS
from query_service.projections.user import USERS

PROJECTIONS: tuple[Projection[Any], ...] = (
    SHIPS,
    USERS,
)
