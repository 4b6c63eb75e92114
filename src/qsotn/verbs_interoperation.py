"""`qsotn key export`: the key managers of a running province in the words of somebody else's standard."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from qsotn.verbs_common import ProvinceOption, province_folder


class Format(StrEnum):
    """What can be exported."""

    ETSI015 = "etsi015"


def add_to(key: typer.Typer) -> None:
    """Put this verb among those of `qsotn key`."""
    key.command("export", epilog="Example: qsotn key export --format etsi015")(export_keys)


def export_keys(
    _format: Annotated[Format, typer.Option("--format", help="etsi015: YANG instance data in JSON, one node a line.")],
    state: ProvinceOption = None,
) -> None:
    """Print every key manager as an SDN controller sees it (ETSI GS QKD 015): applications, links and their rates.

    No key and no key's ID is in it.
    """
    from qsotn.console.export import print_etsi015

    print_etsi015(province_folder(state))
