"""Which listeners key managers have besides their own: for SAEs, for streams of key, for other operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qsotn.domain import PartyId

if TYPE_CHECKING:
    from qsotn.app.plan import Plan

Kind = Literal["delivery", "streams", "border"]
Process = tuple[PartyId, int]
"""A party, and the number of its replica, from 1."""


@dataclass(frozen=True, slots=True)
class KeyListeners:
    """Listeners of one kind, in the order of their ports; `first` is None for ports behind all others."""

    kind: Kind
    where: str
    """The key of the province file that says from which port on."""
    first: int | None
    processes: tuple[Process, ...]


def key_listeners(plan: Plan) -> tuple[KeyListeners, ...]:
    """Return the listeners that a province has; those of one kind have ports one after the other."""
    serving = tuple((km, number) for km in plan.kms if plan.has_saes(km) for number in range(1, plan.replicas.km + 1))
    found = [KeyListeners("delivery", "[delivery] first_port", plan.delivery.first_port, serving)]
    if plan.streams is not None:
        found.append(KeyListeners("streams", "[streams] first_port", plan.streams.first_port, serving))
    if plan.border is not None and plan.border_km is not None:
        found.append(KeyListeners("border", "[border] port", plan.border.port, ((plan.border_km, 1),)))
    return tuple(found)


def ports_behind(plan: Plan) -> int:
    """Return how many of them have ports behind all others."""
    return sum(len(one.processes) for one in key_listeners(plan) if one.first is None)
