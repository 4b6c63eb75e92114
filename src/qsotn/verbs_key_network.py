"""`qsotn key network`, `forecast`, `admit`: the key network as its QKMP sees it; `key provenance`: the way of a key."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from qsotn.verbs_common import EXIT_FAILED, JsonOption, ProvinceOption, province_folder

EXIT_NO: Final = 3
"""The question was understood and answered: no."""
EXIT_NOT_YET: Final = 4
"""The question was understood, and cannot be answered yet."""


def add_to(key: typer.Typer) -> None:
    """Put these verbs among those of `qsotn key`."""
    key.command("network", epilog="Example: qsotn key network --json")(key_network)
    key.command("forecast", epilog="Example: qsotn key forecast")(key_forecast)
    key.command("provenance", epilog="Example: qsotn key provenance f02d0743-5956-43e3-9aec-35e959c5fdbd")(
        key_provenance
    )
    key.command(
        "admit",
        epilog="Examples: qsotn key admit jinan qingdao --lines 20 --every 60 · "
        "qsotn key admit jinan qingdao --lines 500 && echo there is room",
    )(admit_lines)


def key_network(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Show who answers, what every link and pool has, whether both ends of each line agree, and every alarm.

    Exit code 1 while there is an alarm.
    """
    from qsotn.console.network import show_network

    if not show_network(province_folder(state), as_json=as_json):
        raise typer.Exit(EXIT_FAILED)


def key_forecast(state: ProvinceOption = None, as_json: JsonOption = False) -> None:
    """Show when each end of a link, and each pool, will be empty if it goes on as in the last quarter of an hour."""
    from qsotn.console.network import show_forecast

    show_forecast(province_folder(state), as_json=as_json)


def key_provenance(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's ID, as an SAE was told it.")],
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a key of an SAE came to both its ends: over which links, in which mode, and who signed what.

    Every key manager is asked. Exit code 1 if none knows the key, 3 if one does and not every signature holds.
    """
    from qsotn.console.network import show_provenance

    shown = show_provenance(province_folder(state), key_id, as_json=as_json)
    if not shown.told:
        raise typer.Exit(EXIT_FAILED)
    if not all(one.verified for one in shown.told):
        raise typer.Exit(EXIT_NO)


def admit_lines(
    origin: Annotated[str, typer.Argument(metavar="FROM", help="The city of end A: jinan, or km/jinan.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The city of end B.")],
    lines: Annotated[int, typer.Option("--lines", metavar="N", min=1, max=1_000_000, help="How many more lines.")] = 1,
    every: Annotated[
        int, typer.Option("--every", metavar="SECONDS", min=1, max=86_400, help="Between two key changes of each.")
    ] = 60,
    key_bits: Annotated[
        int, typer.Option("--key-bits", metavar="BITS", min=64, max=1024, help="Of one key, in whole bytes.")
    ] = 256,
    state: ProvinceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask whether the key network can carry more lines between two cities. Nothing is reserved by it.

    Each line takes two keys, one for each direction, at every key change. Exit code 0 for yes, 3 for no, 4 while
    it cannot be said, because links have not shown their rate over a minute yet.
    """
    from qsotn.console.network import show_admission
    from qsotn.parties.network_admission import Verdict

    told = show_admission(province_folder(state), origin, target, lines, every, key_bits, as_json=as_json)
    raise typer.Exit({Verdict.YES: 0, Verdict.NO: EXIT_NO, Verdict.NOT_YET: EXIT_NOT_YET}[told])
