"""Datagrams in one transaction, or each alone if that fails; and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qsotn.domain import ProcedureId
from qsotn.errors import QsotnError, StoreConflict, StoreError
from qsotn.runtime import Node
from qsotn.runtime.admission import Bearer
from qsotn.service.repeating import defect, repeated


@dataclass(frozen=True)
class Receipts:
    """What became of several datagrams, by position: whose procedure it is, or why it was refused."""

    taken: dict[int, ProcedureId] = field(default_factory=dict)
    refused: dict[int, QsotnError] = field(default_factory=dict)


def take_all(node: Node, datagrams: Sequence[tuple[bytes, Bearer]]) -> Receipts:
    """Take all in one transaction; if that fails, each alone, so that the fault of one is not another's."""
    try:
        intake = node.receive_all(datagrams)
        return Receipts(intake.taken, dict(intake.refused))
    except Exception as error:  # noqa: BLE001  (each datagram alone shows whose it is)
        if isinstance(error, StoreError) and not _answers(node, error):
            return Receipts({}, dict.fromkeys(range(len(datagrams)), error))
    receipts = Receipts()
    for position, one in enumerate(datagrams):
        _take_one(node, one, position, receipts)
    return receipts


def _answers(node: Node, error: StoreError) -> bool:
    """Whether the store is there: another replica was faster, or one datagram needs a record that is not."""
    if isinstance(error, StoreConflict):
        return True
    try:
        with node.rows(limit=1):
            return True
    except StoreConflict:
        return True
    except StoreError:
        return False


def _take_one(node: Node, one: tuple[bytes, Bearer], position: int, receipts: Receipts) -> None:
    try:
        intake = repeated(lambda: node.receive_all([one]))
    except Exception as error:  # noqa: BLE001  (told to whoever sent it, and logged there)
        receipts.refused[position] = _as_refusal(error)
        return
    if intake.refused:
        receipts.refused[position] = intake.refused[0]
    else:
        receipts.taken[position] = intake.taken[0]


def _as_refusal(error: Exception) -> QsotnError:
    if isinstance(error, QsotnError):
        return error
    return defect(error, "a datagram could not be handled")


def cut(receipts: Receipts, first: int, size: int) -> Receipts:
    """Return what became of `size` datagrams from `first` on, by position among these."""
    within = range(first, first + size)
    return Receipts(
        {at - first: procedure for at, procedure in receipts.taken.items() if at in within},
        {at - first: refused for at, refused in receipts.refused.items() if at in within},
    )
