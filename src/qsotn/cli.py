"""The command line: `qsotn VERB`.

Everything heavy is imported inside the verb that needs it, so that `--help` is instant. The verbs of a province are in
`verbs_province`, those of its operator in `verbs_operator` (of its key network in `verbs_key_network`), benchmarks in
`verbs_bench`, tests of key managers in `verbs_conformance`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from qsotn import (
    __version__,
    verbs_bench,
    verbs_conformance,
    verbs_interoperation,
    verbs_key_network,
    verbs_operator,
    verbs_province,
    verbs_topology,
)
from qsotn.errors import QsotnError, UsageError
from qsotn.verbs_common import (
    EXIT_FAILED,
    EXIT_USAGE,
    JsonOption,
    default_state,
    interruptible,
    province_folder,
)

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


@app.command(
    epilog="Examples: qsotn demo · qsotn demo photo.raw --state run · qsotn demo --resume · qsotn demo --json · "
    "qsotn demo --against https://127.0.0.1:7400 --state province"
)
def demo(
    file: Annotated[Path | None, typer.Argument(help="The file to carry [default: 64 MiB, generated].")] = None,
    state: StateOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish what an interrupted run began.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what the state folder holds, and begin.")] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="URL",
            help="Do it in a running province, whose POMP is at URL; --state is then the province's folder "
            "[default: ~/.local/state/qsotn/province].",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """From one photon to one encrypted OPUk frame: distil keys, onboard two CPEs, carry FILE over an encrypted line.

    Exit code 0 only if the far end received exactly FILE.
    """
    if resume and fresh:
        raise UsageError("--resume finishes the run that --fresh would discard; give one of them")
    if against is None:
        intact = _demo_here(file, state or default_state("demo"), resume, fresh, as_json)
    elif resume or fresh:
        raise UsageError("--against keeps nothing to resume or to discard; leave --resume and --fresh out")
    else:
        intact = _demo_against(against, file, province_folder(state), as_json)
    if not intact:
        raise typer.Exit(EXIT_FAILED)


def _demo_here(file: Path | None, state: Path, resume: bool, fresh: bool, as_json: bool) -> bool:
    from qsotn.console.demo import run_demo

    with interruptible("finish it with: qsotn demo --resume"):
        return run_demo(state, file, resume=resume, fresh=fresh, as_json=as_json)


def _demo_against(url: str, file: Path | None, state: Path, as_json: bool) -> bool:
    from qsotn.console.against import run_against

    with interruptible(f"its line may still be there; look with: qsotn line list --state {state}"):
        return run_against(url, state, file, as_json=as_json)


@app.command(epilog="Example: qsotn trace 09b28e3f-2b6c-4d84-97d7-89b1f1165d82")
def trace(
    key_id: Annotated[str, typer.Argument(help="A key's ID, as `qsotn demo` prints it.", metavar="KEY_ID")],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """One key's hops, photon to frame, from the parties' stores of a demo."""
    from qsotn.console.trace import show_trace

    show_trace(state or default_state("demo"), key_id, as_json=as_json)


@app.command("paper-map")
def paper_map() -> None:
    """Print where each step of the paper is in the code (docs/paper-map.md), from the declared ladders."""
    from qsotn.console.paper_map import render

    typer.echo(render(), nl=False)


verbs_province.add_to(app)
verbs_operator.add_to(app)
verbs_key_network.add_to(verbs_operator.key)
verbs_interoperation.add_to(verbs_operator.key)
verbs_topology.add_to(app)
verbs_conformance.add_to(app)
verbs_bench.add_to(app)
