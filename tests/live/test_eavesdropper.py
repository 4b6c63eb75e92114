"""An eavesdropper at one link of a running province: keys go round her while the link has bits, and come back.

Every key manager of a ring, the QKMP and the twin are processes. The light is the twin's, and so is the eavesdropper;
the way of every key is what `qsotn key provenance` tells of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from tests.faults.delivered_keys import Ended
from tests.live.key_delivery_province import KeyProvince, KeyShape
from tests.live.key_delivery_saes import Saes, SaeThread
from tests.live.stores import Stores

from qsotn.app.operator import Operator, urls_of
from qsotn.app.operator_network import key_provenance
from qsotn.app.programs import TWIN_NAME, programs
from qsotn.app.record import ADMIN, TWIN, operator_tls, party_place
from qsotn.domain import PartyId, Role, role_of
from qsotn.parties.network_capacity import LinkUse
from qsotn.service.config import CONFIGURATION
from qsotn.service.http.operations_network import Network, NetworkLink
from qsotn.service.identity_files import Credentialed
from qsotn.service.twin_watch import EAVESDROPPERS

T = TypeVar("T")

JINAN, WEIFANG, QINGDAO, DEZHOU, YANTAI = (
    PartyId(f"km/{name}") for name in ("jinan", "weifang", "qingdao", "dezhou", "yantai")
)
SHORT, LONG = (JINAN, WEIFANG, QINGDAO), (JINAN, DEZHOU, YANTAI, QINGDAO)
TAPPED = "weifang-qingdao"
RING = KeyShape(
    relays=("weifang", "dezhou", "yantai"),
    links=(
        ("jinan", "weifang"),
        ("weifang", "qingdao"),
        ("jinan", "dezhou"),
        ("dezhou", "yantai"),
        ("yantai", "qingdao"),
    ),
    saes=(("jinan-sae-1", "jinan"), ("qingdao-sae-1", "qingdao")),
    ready_keys=64,
    keys_an_end=8192,
)
PATIENCE_S = 40.0
_log = logging.getLogger(__name__)


class WatchedProvince(KeyProvince):
    """A province of key managers whose QKMP looks every second, and whose twin measures as often."""

    def __init__(self, folder: Path, stores: Stores, shape: KeyShape) -> None:
        super().__init__(folder, stores, shape)
        file = self.state / party_place(self.plan.qkmp) / CONFIGURATION
        file.write_text(f"{file.read_text()}\n[supervision]\ninterval_s = 1.0\n")

    @property
    def commands(self) -> dict[str, tuple[str, ...]]:
        """Key managers, the QKMP and the twin, all with shorter times."""
        made = {one.name: one.command for one in programs(self.state, self.record, self.plan)}
        found = {name: made[name] for name in made if name == TWIN_NAME or self._is_watched(name)}
        return {name: (*command[:2], self.shape.program, *command[3:]) for name, command in found.items()}

    def _is_watched(self, name: str) -> bool:
        return role_of(PartyId(name)) in (Role.KM, Role.QKMP)

    def eavesdrop(self, fraction: float) -> None:
        """Have the twin intercept a fraction of the light of one link."""
        (self.state / TWIN / EAVESDROPPERS).write_text(f'"{TAPPED}" = {fraction}\n')

    def asked(self, act: Callable[[Operator], Awaitable[T]]) -> T:
        """Ask as an operator does."""

        async def story() -> T:
            itself = Credentialed(ADMIN, operator_tls(self.state))
            async with Operator(urls_of(self.record), itself.client) as operator:
                answer = await act(operator)
            await asyncio.sleep(0.05)  # connections of TLS need a moment to be gone
            return answer

        return asyncio.run(story())

    def link(self) -> NetworkLink | None:
        """The tapped link, as the QKMP sees it."""
        network = self.asked(lambda operator: operator.read(self.plan.qkmp, "/network", Network))
        return next((one for one in network.links if one.link == TAPPED), None)

    def becomes(self, use: LinkUse) -> NetworkLink:
        """Wait until the QKMP sees that the tapped link is used so."""
        end = time.monotonic() + PATIENCE_S
        while (seen := self.link()) is None or seen.use is not use:
            assert time.monotonic() < end, f"{seen}"
            time.sleep(0.3)
        return seen


def newest_way(province: WatchedProvince, saes: Saes) -> tuple[PartyId, ...]:
    """The way of the newest key that Jinan gave for Qingdao, as everybody on it signed it for both ends."""
    given = [draw for draw in saes.draws if draw.outcome is Ended.GIVEN and saes.homes[draw.master] == JINAN]
    key_id = given[-1].keys[0].key_id
    shown = province.asked(lambda operator: key_provenance(operator, key_id))
    told = {one.km: one for one in shown.told}
    assert set(told) == {JINAN, QINGDAO}
    assert all(one.verified and all(signed.verified for signed in one.statements) for one in told.values())
    (way,) = told[JINAN].paths
    assert told[QINGDAO].paths == (way,)
    return way


def goes_over(province: WatchedProvince, saes: Saes, way: tuple[PartyId, ...]) -> None:
    """Wait until keys that SAEs are given have come over a way."""
    end = time.monotonic() + PATIENCE_S
    while (seen := newest_way(province, saes)) != way:
        assert time.monotonic() < end, f"keys come over {seen}: {saes.told}"
        time.sleep(0.3)


def test_keys_go_round_an_eavesdropper_while_the_link_has_bits_and_come_back_when_she_is_gone(
    folder: Path, live_seed: int
) -> None:
    with WatchedProvince(folder, Stores(), RING) as province:
        province.begin()
        saes = Saes(province, live_seed)
        with SaeThread(saes) as thread:
            thread.served_since(0.0, ((JINAN, QINGDAO),), 60)
            goes_over(province, saes, SHORT)
            began = time.monotonic()
            province.eavesdrop(0.4)
            goes_over(province, saes, LONG)
            round_after = time.monotonic() - began
            tapped = province.becomes(LinkUse.BARRED)
            assert min(end.available_bits for end in tapped.told) > RING.ready_keys * 256, "it could have gone on"
            metrics = b"".join(province.metrics())
            assert f'qsotn_route_avoided{{link="{TAPPED}",reason="barred"}} 1.0'.encode() in metrics
            began = time.monotonic()
            province.eavesdrop(0.0)
            goes_over(province, saes, SHORT)
            _log.info("round her after %.1f s, back after %.1f s", round_after, time.monotonic() - began)
            thread.finish()
        assert saes.wrong == []
