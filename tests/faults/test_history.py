"""The checker by itself: nothing in a good history, and a planted fault is found by its rule, and named."""

from __future__ import annotations

import pytest
from tests.faults import plants_of_keys, plants_of_orders
from tests.faults.facts import Operation, Outcome
from tests.faults.good_history import GOOD
from tests.faults.history import RULES, check
from tests.faults.planting import Plant, Planted, added, both, changed, one_more_row, row, units
from tests.faults.scribe import CPE_D, KM_B, KM_R, POMP, QSSP_A, QSSP_B

from qsotn.domain import KeyId, ProcedureId
from qsotn.interfaces import Seat
from qsotn.parties import km, pomp
from qsotn.procedures.turn import State

ALL = [*plants_of_orders.ALL, *plants_of_keys.ALL]


def test_nothing_is_found_in_a_good_history() -> None:
    assert check(GOOD) == []


@pytest.mark.parametrize("planted", ALL, ids=[f"{number}-{one.rule}" for number, one in enumerate(ALL)])
def test_a_planted_fault_is_found_and_named(planted: Planted) -> None:
    details = [found.detail for found in check(planted.plant(GOOD)) if found.rule == planted.rule]
    assert any(all(name in detail for name in planted.names) for detail in details), details


def test_every_rule_finds_something() -> None:
    assert {planted.rule for planted in ALL} == {rule.name for rule in RULES}


# --- what is no violation ---------------------------------------------------------------------------------------------


def stored(key_id: str) -> km.StoredKey:
    return km.StoredKey(KeyId(key_id), b"", QSSP_A, QSSP_B, ())


NO_VIOLATION: dict[str, Plant] = {
    "units that a refused hop named are destroyed at its far end": units(
        KM_R, gone=frozenset({"a-r/00000001/000017", "a-r/00000001/000018"})
    ),
    "keys of a request that failed after its supply lie stored where nobody will ask for them": both(
        *(
            row(hop, seat, state=State.COMPLETED)
            for hop in ("hop-14", "hop-15")
            for seat in (Seat.KM_NEAR, Seat.KM_FAR)
        ),
        *(added(KM_B, "stored", key_id, stored(key_id)) for key_id in ("key-25", "key-26")),
    ),
    "a device that was ordered anew after it was revoked serves again": both(
        one_more_row("init-d", Seat.POMP, procedure="init-d2", started=9000, state=State.FAILED),
        changed(POMP, "devices", CPE_D, state=pomp.DeviceState.FAILED, work_order=ProcedureId("init-d2")),
    ),
}


@pytest.mark.parametrize("plant", [*NO_VIOLATION.values()], ids=[*NO_VIOLATION])
def test_what_the_system_may_do_is_no_violation(plant: Plant) -> None:
    assert check(plant(GOOD)) == []


@pytest.mark.parametrize(
    ("kind", "answered_at", "outcome", "procedure", "complaint"),
    [
        ("inventory", 1, Outcome.OK, "init-a", "no procedure 'inventory'"),
        ("deletion", 1, Outcome.OK, None, "named by an acceptance"),
        ("deletion", None, Outcome.UNKNOWN, "delete-1", "named by an acceptance"),
        ("deletion", None, Outcome.REFUSED, None, "refused without an answer"),
    ],
)
def test_an_operation_that_cannot_be_is_refused(
    kind: str, answered_at: int | None, outcome: Outcome, procedure: str | None, complaint: str
) -> None:
    named = None if procedure is None else ProcedureId(procedure)
    with pytest.raises(ValueError, match=complaint):
        Operation(kind, "line-1", POMP, "request-9", 1, answered_at, outcome, named)
