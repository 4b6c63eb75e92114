"""What the names in paths, queries and bodies may look like, as types that decode strictly and document themselves.

A pattern ends in `END`: to Python, `$` alone also holds before a last line feed. In the OpenAPI documents it is `$` as
ECMA-262 reads it, which holds at the very end only.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

END: Final = r"$(?!\n)"
_LETTERS: Final = "[A-Za-z0-9._-]"
UUID: Final = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

PartyName = Annotated[str, msgspec.Meta(pattern=f"^{_LETTERS}{{1,56}}{END}", description="A party's name in its role.")]
LineName = Annotated[str, msgspec.Meta(pattern=f"^{_LETTERS}{{1,64}}{END}", description="A leased line.")]
AccountName = Annotated[str, msgspec.Meta(pattern=f"^{_LETTERS}{{1,64}}{END}", description="A customer's account.")]
SerialNumber = Annotated[
    str, msgspec.Meta(pattern=f"^{_LETTERS}{{1,64}}{END}", description="The serial number in a device's certificate.")
]
CpeId = Annotated[str, msgspec.Meta(pattern=f"^cpe/{_LETTERS}{{1,56}}{END}", description="A device: `cpe/name`.")]
QsspId = Annotated[str, msgspec.Meta(pattern=f"^qssp/{_LETTERS}{{1,56}}{END}", description="A QSSP: `qssp/name`.")]
KeyName = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^{UUID.replace('0-9a-f', '0-9A-Fa-f')}{END}",
        description="A key as SAEs know it, by its key ID (UUID).",
    ),
]
ProcedureName = Annotated[str, msgspec.Meta(pattern=f"^{UUID}{END}", description="A procedure (UUID).")]


class CpePath(msgspec.Struct, frozen=True):
    """One device, by its name."""

    name: PartyName


class LinePath(msgspec.Struct, frozen=True):
    """One leased line."""

    line: LineName


class KeyPath(msgspec.Struct, frozen=True):
    """One key, by its ID."""

    key_id: KeyName


class ProcedurePath(msgspec.Struct, frozen=True):
    """One procedure."""

    procedure: ProcedureName
