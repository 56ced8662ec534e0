"""The server of UmaDB, as its package for Python brings it, in a process like the services'.

`python -m benchmarks.peers.umadb_server serve --database PATH` runs it with its own defaults: an
append is answered after fdatasync.
"""

import os
import socket
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
import umadb

START_S = 20.0
POLL_S = 0.02

app = typer.Typer(add_completion=False)


@app.callback()
def main() -> None:
    """Stores events, and answers who appends and reads them."""


@app.command()
def serve(database: Annotated[Path, typer.Option()]) -> None:
    """Serve until SIGTERM or Ctrl-C, on a free port of the loopback."""
    port = _free_port()
    # What the server says of itself is for the log; the first line of standard output is not.
    output = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_announce, args=(port, output), daemon=True).start()
    umadb.run_server_from_args(
        ["umadb", "--listen", f"127.0.0.1:{port}", "--db-path", str(database)]
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _announce(port: int, output: int) -> None:
    """Says that the server is ready, once it accepts connections."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(POLL_S)
        else:
            os.write(output, f"umadb_server ready on 127.0.0.1:{port}\n".encode())
            return


if __name__ == "__main__":
    app()
