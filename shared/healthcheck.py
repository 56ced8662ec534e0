"""Asks a server how it is: `python -m shared.healthcheck HOST:PORT [SERVICE]`, for containers."""

import asyncio
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = "SERVING"
TIMEOUT_S = 3.0
USAGE = "usage: python -m shared.healthcheck HOST:PORT [SERVICE]\n"

# What is asked is this address itself, whatever proxy the environment names.
OPTIONS = [("grpc.enable_http_proxy", 0)]


async def health_of(address: str, service: str = "") -> str:
    """How a service says that it is, or why that cannot be known.

    Args:
        address: HOST:PORT of the server.
        service: the service's full name; "" is the whole server.

    Returns:
        SERVING, NOT_SERVING, …, or the status of a call that failed, within 3 s.
    """
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # it is there
        try:
            response = await check(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return " ".join(f"{error.code().name}: {error.details()}".split())
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)


def main(arguments: list[str]) -> int:
    """Says on standard output what was found.

    Returns:
        The exit code: 0 for SERVING, 1 for all else.
    """
    if len(arguments) not in {1, 2}:
        sys.stderr.write(USAGE)
        return 1
    found = asyncio.run(health_of(*arguments))
    sys.stdout.write(f"{' '.join(arguments)}: {found}\n")
    return 0 if found == SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
