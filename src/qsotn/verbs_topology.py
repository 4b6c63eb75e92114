"""`qsotn topology NAME`: reference topologies, to plan with or to start."""

from __future__ import annotations

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Put this verb on the command line."""
    app.command(
        epilog="Examples: qsotn topology backbone · qsotn topology national --seed 7 · "
        "qsotn topology province-plan > province.toml && qsotn up --province province.toml"
    )(topology)


def topology(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="national, backbone, province, or province-plan for a province file.")
    ],
    seed: Annotated[int, typer.Option("--seed", help="What the national ones are drawn from.")] = 2025,
) -> None:
    """Print a reference topology as TOML. The national ones are synthesised: they meet published totals, no map."""
    from qsotn.app.topologies import reference_text

    typer.echo(reference_text(name, seed), nl=False)
