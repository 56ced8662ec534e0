"""What every RPC demands of its caller: one table, and whatever is not in it is not served."""

import time
from enum import StrEnum

import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from shared.errors import PermissionDenied, TidemarkError, Unauthenticated
from shared.security.authentication import Authentication, Connection
from shared.security.identity import Identity, Scope
from shared.security.tenants import Headers, named_tenant

TOLD_EVERY_S = 1.0
"""However many calls are refused, the log says so no more often than this."""


class Open(StrEnum):
    """A demand that is no scope."""

    TO_ANYBODY = "open"
    """Without credentials: whoever watches over the service has none."""

    TO_THE_KNOWN = "known"
    """With any good credentials, whatever tenant is named."""


Demand = Scope | Open

DEMANDS: dict[str, Demand] = {
    "tidemark.v1.BulkCommandService.Execute": Scope.WRITE,
    "tidemark.v1.ShipCommandService.Register": Scope.WRITE,
    "tidemark.v1.ShipCommandService.Dock": Scope.WRITE,
    "tidemark.v1.ShipCommandService.Depart": Scope.WRITE,
    "tidemark.v1.ShipCommandService.Load": Scope.WRITE,
    "tidemark.v1.ShipCommandService.Unload": Scope.WRITE,
    "tidemark.v1.UserCommandService.Create": Scope.WRITE,
    "tidemark.v1.UserCommandService.ChangeBalance": Scope.WRITE,
    "tidemark.v1.UserCommandService.Delete": Scope.WRITE,
    "tidemark.v1.UserCommandService.Erase": Scope.WRITE,
    "tidemark.v1.EventLogService.Subscribe": Scope.READ,
    "tidemark.v1.ReplayService.Replay": Scope.READ,
    "tidemark.v1.ShipQueryService.GetShip": Scope.READ,
    "tidemark.v1.ShipQueryService.ListShips": Scope.READ,
    "tidemark.v1.ShipQueryService.WatchShip": Scope.READ,
    "tidemark.v1.ShipQueryService.ListPorts": Scope.READ,
    "tidemark.v1.ShipQueryService.ListPortCargo": Scope.READ,
    "tidemark.v1.UserQueryService.GetUser": Scope.READ,
    "tidemark.v1.UserQueryService.ListUsers": Scope.READ,
    "tidemark.v1.UserQueryService.WatchUser": Scope.READ,
    "tidemark.v1.UserQueryService.ListBalanceChanges": Scope.READ,
    # With them, what is personal can be read wherever it is.
    "tidemark.v1.KeyService.GetKeys": Scope.KEYS,
    # Of the whole service, whatever the tenant.
    "tidemark.v1.ProjectionService.ListProjections": Scope.ADMIN,
    "tidemark.v1.ProjectionService.RebuildProjection": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetTopChannels": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetServers": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetServer": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetServerSockets": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetChannel": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetSubchannel": Scope.ADMIN,
    "grpc.channelz.v1.Channelz.GetSocket": Scope.ADMIN,
    # The contract is no secret, but who reads it here is to be known.
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": Open.TO_THE_KNOWN,
    "grpc.health.v1.Health.Check": Open.TO_ANYBODY,
    "grpc.health.v1.Health.List": Open.TO_ANYBODY,
    "grpc.health.v1.Health.Watch": Open.TO_ANYBODY,
}

logger = structlog.get_logger(__name__)


def check_demands(service: ServiceDescriptor) -> None:
    """Looks whether the table has every RPC of a service.

    Raises:
        LookupError: one is missing.
    """
    for method in service.methods:
        if method.full_name not in DEMANDS:
            raise LookupError(
                f"DEMANDS in shared/security/authorization.py does not say what {method.full_name}"
                " demands of its callers"
            )


class Authorization:
    """Lets callers in, or not."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication
        self._refused = 0
        self._told_at = float("-inf")

    async def admit(
        self, method: MethodDescriptor, headers: Headers, connection: Connection
    ) -> Identity | None:
        """Who makes a call, which they may; None: it does not matter.

        Raises:
            Unauthenticated: that cannot be told.
            PermissionDenied: SCOPE_MISSING or TENANT_FORBIDDEN.
            InvalidFields: the tenant that is named is none.
        """
        demand = DEMANDS[method.full_name]
        if demand is Open.TO_ANYBODY:
            return None
        try:
            identity = await self._authentication.identity(headers, connection)
            if demand is not Open.TO_THE_KNOWN:
                _check_scope(identity, demand)
                tenant_id = named_tenant(headers)
                if tenant_id is not None:
                    identity.check_tenant(tenant_id)
                elif not identity.tenants and demand is not Scope.ADMIN:
                    identity.only_tenant()
        except (Unauthenticated, PermissionDenied) as error:
            self._tell(method, error)
            raise
        return identity

    def _tell(self, method: MethodDescriptor, error: TidemarkError) -> None:
        """Has the operator know of a refusal; a flood of them must not fill the disk."""
        self._refused += 1
        now = time.monotonic()
        if now - self._told_at < TOLD_EVERY_S:
            return
        why = " ".join(getattr(error, "__notes__", ()))
        rpc, reason = method.full_name, error.reason
        logger.warning("calls_refused", count=self._refused, rpc=rpc, reason=reason, why=why)
        self._told_at = now
        self._refused = 0


def _check_scope(identity: Identity, demand: Demand) -> None:
    if demand not in identity.scopes:
        raise PermissionDenied("SCOPE_MISSING", f"This needs the scope {demand}", scope=demand)
