"""Names for new procedures, bindings and key files."""

from __future__ import annotations

from uuid import UUID

from qsotn.domain import ProcedureId
from qsotn.parties.desk import Desk


def new_procedure(desk: Desk) -> ProcedureId:
    """Draw a procedure identifier: a random UUID (RFC 9562, version 4)."""
    return ProcedureId(str(UUID(bytes=desk.entropy(16), version=4)))
