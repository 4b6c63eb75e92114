"""Who may hand a datagram over: its sender, or the courier of its interface, and over no other interface."""

from __future__ import annotations

import pytest
from tests.world import World

from qsotn import wire
from qsotn.app.province import CPE_A, CPE_B, KM_A, PMP, POMP, QKMP, QSSP_A, QSSP_B
from qsotn.domain import PartyId
from qsotn.errors import WrongParty
from qsotn.runtime.admission import Bearer, check_bearer

OPERATOR = PartyId("operator/alice")

# interface, sender, receiver, who hands it over, over which interface ("any" is a connection for all), and whether.
BEARERS = """
Ioa    pomp/shandong pmp/shandong  pomp/shandong  Ioa    yes
Ioa    pomp/shandong pmp/shandong  pomp/shandong  any    yes
Ioa    pomp/shandong pmp/shandong  pomp/shandong  Ioq    no
Ioa    pomp/shandong pmp/shandong  qssp/jinan     Ioa    no
Ioa    pomp/shandong pmp/shandong  pmp/shandong   Ioa    no
Ioa    pomp/shandong pmp/shandong  operator/alice any    no
Iqssp  qssp/jinan    pmp/shandong  qssp/jinan     Iqssp  yes
Iqssp  qssp/jinan    pmp/shandong  qssp/qingdao   Iqssp  no
Ax     cpe/jinan-1   pmp/shandong  cpe/jinan-1    Ax     yes
Ax     cpe/jinan-1   pmp/shandong  cpe/qingdao-1  Ax     no
Ax     pmp/shandong  cpe/jinan-1   pmp/shandong   any    yes
Iaq    cpe/jinan-1   qssp/jinan    cpe/jinan-1    Iaq    yes
Iaq    cpe/jinan-1   qssp/jinan    pmp/shandong   Iaq    yes
Iaq    qssp/jinan    cpe/jinan-1   pmp/shandong   any    yes
Iaq    cpe/jinan-1   qssp/jinan    pmp/shandong   Iqssp  no
Iaq    cpe/jinan-1   qssp/jinan    qssp/qingdao   Iaq    no
Iaq    cpe/jinan-1   qssp/jinan    pomp/shandong  Iaq    no
AK     qssp/jinan    km/jinan      qssp/jinan     AK     yes
AK     qssp/jinan    km/jinan      pmp/shandong   AK     no
Iqq    qssp/jinan    qkmp/shandong qssp/jinan     Iqq    yes
Kx     km/jinan      km/weifang    km/jinan       Kx     yes
"""
ROWS = [tuple(line.split()) for line in BEARERS.strip().splitlines()]


@pytest.mark.parametrize(("interface", "sender", "receiver", "bearer", "door", "may"), ROWS)
def test_a_datagram_is_handed_over_by_whom_the_table_says(
    interface: str, sender: str, receiver: str, bearer: str, door: str, may: str
) -> None:
    datagram = wire.Datagram(interface, PartyId(sender), PartyId(receiver), b"")
    brought = Bearer(PartyId(bearer), None if door == "any" else door)
    if may == "yes":
        check_bearer(datagram, brought)
    else:
        with pytest.raises(WrongParty, match="handed over"):
            check_bearer(datagram, brought)


def test_the_table_has_every_party_that_hands_anything_over() -> None:
    named = {sender for _, sender, *_ in ROWS} | {receiver for _, _, receiver, *_ in ROWS}
    assert named == {CPE_A, KM_A, "km/weifang", PMP, POMP, QKMP, QSSP_A} | {CPE_A}
    assert {CPE_B, QSSP_B, OPERATOR} <= {bearer for *_, bearer, _, _ in ROWS}


@pytest.mark.parametrize(
    "bearer", [Bearer(QSSP_B, None), Bearer(POMP, "Iqssp"), Bearer(OPERATOR, None)], ids=lambda bearer: bearer.party
)
def test_what_the_wrong_one_hands_over_changes_nothing_and_is_counted(ready: World, bearer: Bearer) -> None:
    ready.order_line()
    (posted,) = ready.nodes[POMP].lease(8)
    before = ready.dump(PMP)
    intake = ready.nodes[PMP].receive_all([(posted.datagram, bearer)])
    assert {at: type(error) for at, error in intake.refused.items()} == {0: WrongParty}
    assert (ready.dump(PMP), ready.nodes[PMP].rejections["WrongParty"]) == (before, 1)
    assert 0 in ready.nodes[PMP].receive_all([(posted.datagram, Bearer(POMP, "Ioa"))]).taken
