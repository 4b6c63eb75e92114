"""What the verbs of the command line share: options, exit codes, default folders. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
ProvinceOption = Annotated[
    Path | None,
    typer.Option("--state", metavar="DIR", help="The province's folder [default: ~/.local/state/qsotn/province]."),
]


def sub_verbs(name: str, about: str) -> typer.Typer:
    """Return a group of verbs: `qsotn NAME VERB`."""
    return typer.Typer(name=name, help=about, no_args_is_help=True, rich_markup_mode=None)


def province_folder(state: Path | None) -> Path:
    """Return the folder of the province that is meant."""
    return state or default_state("province")


def default_state(name: str) -> Path:
    """Return the state folder used when none is named: under XDG_STATE_HOME, as the XDG base directories say."""
    import os

    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "qsotn" / name


@contextmanager
def interruptible(advice: str) -> Iterator[None]:
    """End with one line and the exit code of an interrupted command when Ctrl-C is pressed."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"qsotn: interrupted; {advice}", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
