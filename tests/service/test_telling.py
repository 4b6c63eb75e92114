"""The QKMP tells key managers how the links stand; what they make of it, together with what they see themselves."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.desks import run
from tests.service.http.driver import Client, application_of
from tests.service.watch import Watch, distilled
from tests.world import World

from qsotn.app.province import KM_A, KM_B, KM_RELAY, LINK_A, LINK_B, QKMP
from qsotn.domain import PartyId
from qsotn.errors import LineError
from qsotn.keynetwork.widths import Avoided, Measured
from qsotn.parties import link_sights
from qsotn.parties.link_knowledge import Known, known_links
from qsotn.parties.link_sights import LINKS_A_PAGE, LinkSight, NetworkSight
from qsotn.service import link_keys
from qsotn.service.http.operations_sights import SIGHTS

NOISY = frozenset({Avoided.NOISY})


@pytest.fixture
def watch(open_world: Callable[..., World]) -> Watch:
    """A province with a block on each link, and nothing begun."""
    return Watch(open_world("provisioned"))


def known(watch: Watch, party: PartyId) -> Known:
    with watch.world.desk(party) as km:
        return known_links(km)


def measured(watch: Watch, link: str, error_rate: float | None, *, distils: bool, at: tuple[PartyId, ...]) -> None:
    for party in at:
        with watch.world.desk(party) as km:
            link_keys.measured(km, link, error_rate, distils=distils)


def test_after_a_look_every_key_manager_knows_every_link(watch: Watch) -> None:
    assert LINK_B not in known(watch, KM_A), "it is not its own, and nobody told"
    watch.look()
    for party in (KM_A, KM_B, KM_RELAY):
        assert set(known(watch, party)) == {LINK_A, LINK_B}
        assert known(watch, party)[LINK_B] == Measured(watch.link(LINK_B)["told"][0]["available_bits"])


def test_the_emptier_end_is_told_of_others_links_and_the_own_end_counts_of_ones_own(watch: Watch) -> None:
    with watch.world.desk(KM_RELAY) as km:
        km.allocate(LINK_A, 16, 256)
        km.allocate(LINK_B, 24, 256)
        left = {link: km.available_bits(link) for link in (LINK_A, LINK_B)}
    watch.look()
    assert known(watch, KM_A)[LINK_B].pool_bits == left[LINK_B]
    assert known(watch, KM_A)[LINK_A].pool_bits == left[LINK_A] + 16 * 256
    with watch.world.desk(KM_A) as km:
        km.allocate(LINK_A, 4, 256)
    assert known(watch, KM_A)[LINK_A].pool_bits == left[LINK_A] + 12 * 256, "without another look"


def test_errors_reach_who_is_far_away_with_the_next_look_and_so_does_their_end(watch: Watch) -> None:
    watch.look()
    measured(watch, LINK_B, 0.07, distils=False, at=(KM_B, KM_RELAY))
    assert known(watch, KM_RELAY)[LINK_B].avoided == NOISY, "its own link"
    assert known(watch, KM_A)[LINK_B].avoided == frozenset()
    watch.look()
    seen = known(watch, KM_A)[LINK_B]
    assert (seen.qber, seen.avoided, seen.barred) == (0.07, NOISY, False)
    assert (watch.link(LINK_B)["state"], watch.link(LINK_B)["use"], watch.link(LINK_B)["qber"]) == (
        "NOISY",
        "AVOIDED",
        0.07,
    )
    assert (f"link {LINK_B}", "QBER_HIGH") in watch.alarms()
    measured(watch, LINK_B, 0.09, distils=False, at=(KM_B, KM_RELAY))
    watch.look()
    assert known(watch, KM_A)[LINK_B].barred
    assert watch.link(LINK_B)["use"] == "BARRED"
    distilled(watch.world, LINK_B, 2, error_rate=0.01)
    watch.look()
    assert (known(watch, KM_A)[LINK_B].avoided, known(watch, KM_A)[LINK_B].qber) == (frozenset(), 0.01)
    assert watch.link(LINK_B)["use"] == "PREFERRED"


def test_light_that_gives_no_key_is_noisy_whatever_its_error_rate(watch: Watch) -> None:
    measured(watch, LINK_B, 0.042, distils=False, at=(KM_B, KM_RELAY))
    watch.look()
    assert known(watch, KM_A)[LINK_B].avoided == NOISY
    measured(watch, LINK_B, None, distils=False, at=(KM_B, KM_RELAY))
    watch.look()
    assert known(watch, KM_A)[LINK_B].avoided == NOISY


def test_the_links_of_who_is_silent_are_avoided_and_who_is_silent_is_not_told(watch: Watch) -> None:
    watch.look()
    watch.silent = {KM_B}
    watch.asked.clear()
    watch.look()
    assert known(watch, KM_A)[LINK_B].avoided == {Avoided.UNSEEN}
    told = [party for party, path in watch.asked if path == "/network/links"]
    assert sorted(told) == [KM_A, KM_RELAY]
    watch.look(4)
    assert known(watch, KM_A)[LINK_B] == Measured(avoided=frozenset({Avoided.UNSEEN})), "its numbers are too old"


def test_what_was_told_is_believed_until_the_third_look_is_missing(watch: Watch) -> None:
    watch.look()
    watch.world.clock.advance(29_900_000)
    assert LINK_B in known(watch, KM_A)
    watch.world.clock.advance(200_000)
    assert LINK_B not in known(watch, KM_A)
    assert known(watch, KM_A)[LINK_A].pool_bits, "it sees its own all the same"


def test_who_does_not_take_it_is_named_once(watch: Watch) -> None:
    asking = watch.supervision()
    deaf = asking._telling
    reach = deaf._reach

    class Deaf:
        async def ask(self, *_: object) -> bytes:
            raise deafness

    deafness = LineError(f"{KM_B} answered 404")
    deaf._reach = lambda party: Deaf() if party == KM_B else reach(party)
    with capture_logs() as logs:
        for _ in range(2):
            watch.world.clock.advance(10_000_000)
            run(asking.look())
    told = [(one["told"], one["reason"]) for one in logs if one["event"].startswith("a key manager is not told")]
    assert told == [(KM_B, f"{KM_B} answered 404")]
    assert LINK_B in known(watch, KM_RELAY)


def sight(link: str) -> LinkSight:
    return LinkSight(link, (KM_A, KM_B), 1, 0.0, None, noisy=False, unseen=False, age_s=0.0)


def test_a_large_network_is_told_in_pages_that_are_small_enough_to_be_read(watch: Watch) -> None:
    sights = [sight(f"{number:060}") for number in range(2 * LINKS_A_PAGE + 1)]
    pages = list(link_sights.pages(sights, 30.0, 0.05))
    assert [len(page.links) for page in pages] == [LINKS_A_PAGE, LINKS_A_PAGE, 1]
    client = Client(application_of(watch.world, KM_A), QKMP)
    for page in pages:
        assert client("PUT", SIGHTS, json=page).status == 204
    assert len(known(watch, KM_A)) == len(sights) + 1
    assert client("PUT", SIGHTS, json=NetworkSight(1, 30.0, 0.05, ())).status == 204
    assert len(known(watch, KM_A)) == len(sights) - LINKS_A_PAGE + 1, "a page replaces what it said before"
    assert [page.links for page in link_sights.pages([], 30.0, 0.05)] == [()], "that there is none is told too"


@pytest.mark.parametrize(
    ("field", "value"),
    [("believed_s", 0), ("believed_s", 10**6), ("page", -1), ("page", 100), ("qber_limit", 1.1), ("colour", "red")],
)
def test_a_sight_that_cannot_be_is_refused(watch: Watch, field: str, value: object) -> None:
    wrong = {**msgspec.to_builtins(NetworkSight(0, 30.0, 0.05, (sight(LINK_B),))), field: value}
    reply = Client(application_of(watch.world, KM_A), QKMP)("PUT", SIGHTS, json=wrong)
    assert (reply.status, field in reply.json()["detail"]) == (422, True)
    assert LINK_B not in known(watch, KM_A)
