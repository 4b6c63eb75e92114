"""`qsotn bench NAME`: measurements that print what they measured, and what they left out."""

from __future__ import annotations

from typing import Annotated

import typer

from qsotn.verbs_common import JsonOption, interruptible, sub_verbs

bench = sub_verbs("bench", "Benchmarks.")


def add_to(app: typer.Typer) -> None:
    """Put these verbs on the command line."""
    app.add_typer(bench)


@bench.command(epilog="Examples: qsotn bench procedures · qsotn bench procedures --cpes 100,1000 --json")
def procedures(
    cpes: Annotated[
        str, typer.Option("--cpes", metavar="N,N…", help="Numbers of devices at which to measure, growing.")
    ] = "100,1000,10000",
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=1, help="How many lines to establish.")] = 48,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", min=1, help="Orders under way at once.")
    ] = 64,
    as_json: JsonOption = False,
) -> None:
    """Initialisations and line establishments per second of processor time, with everything on.

    A province of real processes on this machine: mutual TLS, signatures, and a store that syncs every commit.
    """
    from qsotn.console.bench import run_procedures

    run_procedures(cpes, lines, concurrency, as_json=as_json)


@bench.command(epilog="Examples: qsotn bench keys · qsotn bench keys --long --json")
def keys(
    long: Annotated[bool, typer.Option("--long", help="Consume ten million keys instead of one million.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keys for SAEs per second of processor time, beside two other servers; their relay; the planning of its ways.

    A key manager's server as a process on this machine: ETSI GS QKD 014, mutual TLS, a store that syncs every commit.
    """
    from qsotn.console.bench_keys import run_keys

    with interruptible("nothing is left of it"):
        run_keys(long=long, as_json=as_json)
