"""A relay proves to what it follows who it is, with the options of a query service."""

from pathlib import Path

from examples.dev_credentials import issuer_in, make, server_options
from examples.services import start_command_service
from tests.relay.stage import stage
from tests.services.access import anybody
from tests.services.commanding import send
from tests.services.deployment import CommandClient
from tidemark.v1.ship_pb2 import RegisterShip


async def test_a_relay_follows_over_mutual_tls_with_a_token(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    make(credentials)
    token = tmp_path / "token"
    token.write_text(issuer_in(credentials).token(sub="relay", tenants=["*"], scope="read admin"))
    options = server_options(credentials)
    command = await start_command_service(
        tmp_path, "127.0.0.1:0", *options, log=tmp_path / "command.log"
    )
    try:
        client = CommandClient(command.address, anybody(credentials))
        await send(client, RegisterShip(ship_id="aurora", name="Aurora"))
        await client.channel.close()
        async with stage(tmp_path) as on:
            relay = await on.start_relay(
                command.address,
                *("--upstream-ca", str(credentials / "ca.pem")),
                *("--upstream-cert", str(credentials / "client.pem")),
                *("--upstream-key", str(credentials / "client.key")),
                *("--upstream-token", str(token)),
            )
            [task] = await on.broker.take(1)
            assert await relay.stop() == 0
    finally:
        await command.stop()

    assert task.headers["aggregate_id"] == "aurora"
