"""All commands together."""

import os

import typer

from shared.cli import aggregates, events
from shared.cli.connecting import connect
from shared.cli.past import diff, history
from shared.cli.projections import projections, rebuild
from shared.cli.transfer import export
from shared.json_events.offline import import_command

app = typer.Typer(name="tidemark", no_args_is_help=True, callback=connect)
aggregates.add_to(app)
app.add_typer(events.group, name="events", help="Follow what happens.")
app.command()(history)
app.command()(diff)
app.command()(projections)
app.command()(rebuild)
app.command()(export)
app.command("import")(import_command)


def main() -> None:
    """`tidemark`."""
    # What gRPC itself would write is about connections, and the command says what became of them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="tidemark")
