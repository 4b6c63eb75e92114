"""Processes that stand for services, and a `qsotn up` that runs them: `python -m tests.app.stand_ins STATE`.

A stand-in says whether it is ready, as a service does, and is otherwise as good or as bad as a test wants it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from qsotn.app import programs as real
from qsotn.app.plan import Plan
from qsotn.app.processes import Program
from qsotn.app.record import ProvinceRecord

# Arguments: port, behaviour, name, file. All stand-ins of a test share the file.
SOURCE = r"""
import os, signal, socket, sys
port, behaviour, name, file = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
def stop(*_):
    with open(file, "a") as order:
        order.write(name + "\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else stop)
print(name, "begins", flush=True)
if behaviour == "dies" or (behaviour == "once" and os.path.exists(file + ".once")):
    sys.exit("no store to be had")
if behaviour == "once":
    open(file + ".once", "w").close()
status = b"503 Service Unavailable" if behaviour == "unready" else b"200 OK"
server = socket.create_server(("127.0.0.1", port))
while True:
    connection, _ = server.accept()
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    connection.close()
"""


def command(port: int, behaviour: str, name: str, file: Path) -> tuple[str, ...]:
    """The command of one stand-in; without site packages, it starts at once."""
    return (sys.executable, "-I", "-S", "-c", SOURCE, str(port), behaviour, name, str(file))


def instead(state: Path) -> Callable[[Path, ProvinceRecord, Plan], list[Program]]:
    """The programs of a province, each with a stand-in's command."""

    def programs(folder: Path, record: ProvinceRecord, plan: Plan) -> list[Program]:
        made = real.programs(folder, record, plan)
        return [
            replace(one, command=command(int(one.monitoring.rpartition(":")[2]), "ready", one.name, state / "order"))
            for one in made
        ]

    return programs


def run(state: Path) -> None:
    """`qsotn up --json`, with stand-ins, and with the errors and exit codes of the command line."""
    from qsotn import cli
    from qsotn.console import up

    up.programs = instead(state)  # type: ignore[attr-defined,assignment]  # imported there
    cli.app = lambda: up.run_up(None, state, as_json=True)  # type: ignore[assignment]  # a single verb
    cli.main()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
