"""The command line: `qsotn VERB`.

Everything heavy is imported inside the verb that needs it, so that `--help` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from qsotn import __version__
from qsotn.errors import QsotnError, UsageError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="qsotn",
    help="The open quantum-secure OTN leased-line platform.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

StateOption = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="State folder [default: ~/.local/state/qsotn/demo].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the pictures.")]


def main() -> None:
    """Run the command line; an expected error ends in one line and a non-zero exit code, never in a traceback."""
    try:
        app()
    except UsageError as error:
        _stop(error, EXIT_USAGE)
    except QsotnError as error:
        _stop(error, EXIT_FAILED)


def _stop(error: QsotnError, code: int) -> NoReturn:
    typer.echo(f"qsotn: {' '.join(str(error).split())}", err=True)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qsotn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """The open quantum-secure OTN leased-line platform: `qsotn demo` shows it all."""


@app.command(epilog="Examples: qsotn demo · qsotn demo photo.raw --state run · qsotn demo --resume · qsotn demo --json")
def demo(
    file: Annotated[Path | None, typer.Argument(help="The file to carry [default: 64 MiB, generated].")] = None,
    state: StateOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish what an interrupted run began.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what the state folder holds, and begin.")] = False,
    as_json: JsonOption = False,
) -> None:
    """From one photon to one encrypted OPUk frame: distil keys, onboard two CPEs, carry FILE over an encrypted line.

    Exit code 0 only if the far end received exactly FILE.
    """
    from qsotn.console.demo import run_demo

    if resume and fresh:
        raise UsageError("--resume finishes the run that --fresh would discard; give one of them")
    try:
        intact = run_demo(state or default_state(), file, resume=resume, fresh=fresh, as_json=as_json)
    except KeyboardInterrupt:
        typer.echo("qsotn: interrupted; finish it with: qsotn demo --resume", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if not intact:
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: qsotn trace 09b28e3f-2b6c-4d84-97d7-89b1f1165d82")
def trace(
    key_id: Annotated[str, typer.Argument(help="A key's ID, as `qsotn demo` prints it.", metavar="KEY_ID")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """One key's hops, photon to frame, from the parties' stores of a demo."""
    from qsotn.console.trace import show_trace

    show_trace(state or default_state(), key_id, as_json=as_json)


@app.command("paper-map")
def paper_map() -> None:
    """Print where each step of the paper is in the code (docs/paper-map.md), from the declared ladders."""
    from qsotn.console.paper_map import render

    typer.echo(render(), nl=False)


def default_state() -> Path:
    """The state folder used when none is named: under XDG_STATE_HOME, as the XDG base directories say."""
    import os

    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "qsotn" / "demo"
