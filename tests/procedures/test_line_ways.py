"""Stories of the ways that leased lines' keys take: the tabled one, and round a link that somebody listens to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.procedures.key_network import A, B, C, D, E
from tests.procedures.line_network import SAE_A, SAE_A2, SAE_C, CertifiedLines, LineNetwork
from tests.procedures.sights import light, tell, units
from tests.world import Faults

from qsotn.domain import PartyId, Secret
from qsotn.errors import Refusal
from qsotn.interfaces import Seat
from qsotn.keynetwork.failures import AVOIDED_US, REFUSED_US
from qsotn.keynetwork.relay import hindrance
from qsotn.messages import KeyRelay, ProcedureRefusal
from qsotn.parties import line_ways
from qsotn.parties.km import BlockState
from qsotn.parties.line_ways import MOST_ON_A_WAY, check_way
from qsotn.parties.link_light import note_light
from qsotn.parties.link_sights import LinkSight, NetworkSight, keep
from qsotn.procedures import key_supply
from qsotn.procedures.turn import Work
from qsotn.runtime.failing import fail

BELIEVED_S = 30.0
SHORT, LONG = "qkd:km/a–km/b–km/c", "qkd:km/a–km/d–km/e–km/c"
KEYS = 2


@pytest.fixture(scope="module")
def certified() -> CertifiedLines:
    return CertifiedLines()


@pytest.fixture
def open_ring(tmp_path: Path, certified: CertifiedLines) -> Iterator[Callable[..., LineNetwork]]:
    opened: list[LineNetwork] = []

    def begin(units: int = 120) -> LineNetwork:
        opened.append(LineNetwork(tmp_path, certified, units=units))
        return opened[-1]

    yield begin
    for network in opened:
        network.close()


@pytest.fixture
def ring(open_ring: Callable[..., LineNetwork]) -> LineNetwork:
    return open_ring()


def told(ring: LineNetwork) -> None:
    tell(ring, BELIEVED_S)


def tabled(ring: LineNetwork) -> bool:
    """Whether A leaves the next supply to C to the tables."""
    with ring.desk(A) as km:
        return line_ways.choose(km, C, KEYS) == ()


# --- an eavesdropper --------------------------------------------------------------------------------------------------


def test_an_eavesdropper_on_a_link_far_away_is_gone_round_while_it_has_bits_and_it_is_used_again_when_he_is_gone(
    ring: LineNetwork,
) -> None:
    told(ring)
    assert ring.source(ring.asked()) == SHORT
    left = units(ring, "b-c")
    light(ring, "b-c", 0.06)
    told(ring)
    assert ring.source(ring.asked()) == LONG
    assert units(ring, "b-c") == left > 2 * KEYS, "it could have gone on"
    light(ring, "b-c", 0.02)
    told(ring)
    assert ring.source(ring.asked()) == SHORT


def test_one_on_a_link_of_ones_own_is_gone_round_before_anybody_tells(ring: LineNetwork) -> None:
    told(ring)
    light(ring, "a-b", 0.06)
    assert ring.source(ring.asked()) == LONG
    light(ring, "a-b", 0.01)
    assert ring.source(ring.asked()) == SHORT


def test_both_ends_have_the_same_keys_and_account_for_the_way_that_they_took(ring: LineNetwork) -> None:
    light(ring, "b-c", 0.06)
    told(ring)
    keys = ring.keys(ring.asked())
    far = ring.keys(ring.fetch(keys))
    assert [(one.key_id, one.key, one.source) for one in far] == [(one.key_id, one.key, one.source) for one in keys]
    for party, role in ((A, "origin"), (D, "relay"), (E, "relay"), (C, "destination")):
        with ring.desk(party) as km:
            record = km.keys.require(keys[0].key_id)
        way = (A, D, E, C)
        assert (record.role, record.path) == (role, way if role == "origin" else way[: way.index(party) + 1])


def test_a_link_that_has_not_a_supply_left_is_gone_round(ring: LineNetwork) -> None:
    ring.drain(B, "b-c", leave=KEYS - 1)
    told(ring)
    assert ring.source(ring.asked()) == LONG


# --- without the QKMP -------------------------------------------------------------------------------------------------


def test_with_the_qkmp_silent_the_keys_follow_the_tables(ring: LineNetwork) -> None:
    light(ring, "b-c", 0.06)
    assert tabled(ring)
    assert ring.source(ring.asked()) == SHORT, "nobody told, and its bits are good"
    told(ring)
    assert ring.source(ring.asked()) == LONG
    ring.clock.advance(int(BELIEVED_S * 1e6))
    assert tabled(ring), "what was told is too old"
    assert ring.source(ring.asked()) == SHORT


def test_a_key_manager_that_was_never_told_of_the_network_uses_no_barred_link_of_its_own(ring: LineNetwork) -> None:
    light(ring, "a-b", 0.1)
    left = units(ring, "a-b")
    refusal = ring.refusal(ring.asked())
    assert (refusal.code, units(ring, "a-b")) == ("LINK_BARRED", left)


def test_the_network_as_it_was_told_long_ago_shows_a_way_round_a_barred_link_of_ones_own(ring: LineNetwork) -> None:
    told(ring)
    ring.clock.advance(int(2 * BELIEVED_S * 1e6))
    light(ring, "a-b", 0.1)
    assert ring.source(ring.asked()) == LONG


# --- barred -----------------------------------------------------------------------------------------------------------


def test_a_relay_refuses_for_a_barred_link_and_the_same_request_is_served_over_another_way(ring: LineNetwork) -> None:
    told(ring)
    light(ring, "b-c", 0.1, distils=False)
    left = units(ring, "b-c")
    before = ring.clock()
    asked = ring.asked()
    assert ring.source(asked) == LONG
    assert ring.clock() - before < 2_000_000, "within seconds"
    assert units(ring, "b-c") == left
    assert [one for one in ring.rows().values() if "LINK_BARRED" in one], "the first way was refused"
    sent = len(ring.wire.sent)
    assert ring.source(ring.asked()) == LONG
    assert not any(one.hop == B for one in ring.wire.sent[sent:]), "the link is left out, and nobody asks for it"
    ring.clock.advance(REFUSED_US)
    light(ring, "b-c", 0.01)
    told(ring)
    assert ring.source(ring.asked()) == SHORT


def test_where_no_other_way_is_known_the_relays_refusal_is_the_answer_and_no_second_try_burns_bits(
    ring: LineNetwork,
) -> None:
    light(ring, "b-c", 0.1)
    left = units(ring, "a-b")
    refusal = ring.refusal(ring.asked())
    assert refusal.code == "LINK_BARRED"
    assert refusal.detail == "link b-c at km/b: b-c shows more errors than any key may be made of"
    assert units(ring, "a-b") == left - KEYS


def test_above_the_limit_a_link_is_used_for_nothing_even_if_there_is_no_other(ring: LineNetwork) -> None:
    for link in ("b-c", "d-e"):
        light(ring, link, 0.1)
    told(ring)
    left = {link: units(ring, link) for link in ("a-b", "b-c", "d-e", "a-d")}
    refusal = ring.refusal(ring.asked())
    assert refusal.code == "NO_ROUTE"
    assert refusal.detail.endswith("barred for their error rates are b-c, d-e")
    assert {link: units(ring, link) for link in left} == left


@pytest.mark.parametrize("slave", [SAE_A, SAE_A2])
def test_keys_that_stay_in_the_city_are_never_of_a_barred_link(ring: LineNetwork, slave: PartyId) -> None:
    ring.drain(A, "a-d", leave=40)
    assert ring.source(ring.asked(slave=slave)) == "qkd:km/a–km/b", "it has more bits"
    light(ring, "a-b", 0.1)
    left = units(ring, "a-b")
    assert ring.source(ring.asked(slave=slave)) == "qkd:km/a–km/d"
    light(ring, "a-d", 0.1)
    assert ring.refusal(ring.asked(slave=slave)).code == "LINK_BARRED"
    assert units(ring, "a-b") == left


def test_keys_that_stay_in_the_city_come_of_a_noisy_link_only_if_no_other_has_bits(ring: LineNetwork) -> None:
    ring.drain(A, "a-d", leave=40)
    light(ring, "a-b", 0.06)
    assert ring.source(ring.asked(slave=SAE_A2)) == "qkd:km/a–km/d"
    ring.drain(A, "a-d")
    assert ring.source(ring.asked(slave=SAE_A2)) == "qkd:km/a–km/b"


def test_a_relay_follows_the_way_and_not_its_table(tmp_path: Path, certified: CertifiedLines) -> None:
    network = LineNetwork(tmp_path, certified, ((A, B), (B, C), (B, D), (D, C)), units=120)
    light(network, "b-c", 0.06)
    told(network)
    assert network.source(network.asked()) == "qkd:km/a–km/b–km/d–km/c"
    network.close()


# --- what fails on the way --------------------------------------------------------------------------------------------


def test_a_relay_without_bits_costs_a_request_one_more_try_and_is_left_out_for_a_minute(ring: LineNetwork) -> None:
    told(ring)
    ring.drain(B, "b-c")
    assert ring.source(ring.asked()) == LONG
    ring.fill(1024, number=2)
    for _ in range(2):
        told(ring)
        assert ring.source(ring.asked()) == LONG
    ring.clock.advance(AVOIDED_US)
    told(ring)
    assert ring.source(ring.asked()) == SHORT
    with ring.desk(A) as km:
        assert list(line_ways.failures(km.desk).items()) == [], "a supply that crossed it forgives"


def test_an_origin_whose_first_link_has_its_bits_in_pieces_begins_over_another(ring: LineNetwork) -> None:
    ring.drain(A, "a-b", leave=60)
    for party in (A, B):
        with ring.desk(party) as km:
            km.deposit("a-b", 2, Secret(bytes(120 * 32)), {})
            km.set_state(km.block("a-b", 2), BlockState.AVAILABLE)
    told(ring)
    assert ring.source(ring.asked(number=100)) == LONG
    assert ring.source(ring.asked(number=50)) == SHORT


def test_a_request_that_was_given_up_is_tried_over_no_further_way(ring: LineNetwork) -> None:
    told(ring)
    ring.drain(B, "b-c")
    left = units(ring, "a-d")
    ring.mute(B)
    asked = ring.ask()
    ring.some_rounds()
    gone = ProcedureRefusal("GIVEN_UP", "by its QSSP")

    def give_up(qssp: Any, work: Work) -> None:
        row = work.find(asked, Seat.QSSP_A)
        assert row is not None
        fail(work, qssp, row, gone, None)

    ring.begin(SAE_A, give_up)
    ring.some_rounds()
    ring.mute()
    ring.some_rounds(1000)
    assert any("KEY_SHORTAGE" in one for one in ring.rows().values()), "the relay's refusal came after all"
    assert units(ring, "a-d") == left


def test_a_request_is_not_tried_for_ever(ring: LineNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_supply, "MOST_TRIES", 1)
    told(ring)
    ring.drain(B, "b-c")
    assert ring.refusal(ring.asked()).detail.startswith("link b-c at km/b: ")
    assert ring.source(ring.asked()) == LONG, "the next request goes round it"


def test_a_link_that_nobody_told_of_is_not_remembered(ring: LineNetwork) -> None:
    told(ring)
    with ring.desk(A) as km:
        for link in ("b-c", "x-y"):
            line_ways.note_refusal(km, "LINK_BARRED", link)
        assert [link for link, _ in line_ways.failures(km.desk).items()] == ["b-c"]


def test_every_way_that_fails_takes_its_keys_along(ring: LineNetwork) -> None:
    told(ring)
    ring.drain(B, "b-c")
    ring.drain(E, "c-e")
    refusal = ring.refusal(ring.asked())
    assert (refusal.code, refusal.detail.split(":")[0]) == ("KEY_SHORTAGE", "link c-e at km/e")
    for party in ring.parties:
        with ring.desk(party) as km:
            assert list(km.stored.items()) == []


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_wire_does_a_request_that_takes_another_way_is_answered_once_with_the_same_keys_at_both_ends(
    tmp_path: Path, certified: CertifiedLines, seed: int
) -> None:
    faults = Faults(loss=0.15, receipt_loss=0.15, duplicate=0.15, delay=0.15, crash=0.03)
    network = LineNetwork(tmp_path, certified, units=64, seed=seed, faults=faults)
    told(network)
    with network.desk(B) as km:
        note_light(km.desk, "b-c", 1, 0.1, distils=False)
    asked = [network.ask() for _ in range(3)]
    network.some_rounds(1500)
    network.wire.faults = Faults()
    network.some_rounds(400)
    for one in asked:
        assert network.source(one) == LONG
        keys = network.keys(one)
        assert [far.key for far in network.keys(network.fetch(keys))] == [near.key for near in keys]
    with network.desk(C) as km:
        assert list(km.stored.items()) == []
    network.close()


# --- a relay that names a link it has nothing to do with --------------------------------------------------------------


def refuse_once(monkeypatch: pytest.MonkeyPatch, liar: PartyId, code: str, detail: str) -> None:
    """Let a key manager refuse the next keys that it would pass on."""
    honest, lies = line_ways.next_hop, [Refusal(code, detail)]

    def next_hop(km: Any, asked: KeyRelay) -> tuple[str, PartyId]:
        if km.desk.party == liar and lies:
            raise lies.pop()
        return honest(km, asked)

    monkeypatch.setattr(line_ways, "next_hop", next_hop)


def left_out(ring: LineNetwork) -> dict[str, int]:
    """The links that A leaves out, and for how long."""
    with ring.desk(A) as km:
        return {link: one.number for link, one in line_ways.failures(km.desk).items()}


def misnamed_at(ring: LineNetwork) -> list[str]:
    """Who noticed that a link was misnamed, and how it is told."""
    return [f"{name.split()[0]} {one}" for name, one in ring.rows().items() if " named " in one]


@pytest.mark.parametrize("code", ["KEY_SHORTAGE", "LINK_BARRED"])
@pytest.mark.parametrize(("link", "party"), [("a-d", B), ("d-e", D), ("c-e", C), ("b-c", D), ("b-c", A), ("x-y", B)])
def test_a_relay_that_names_a_link_not_ahead_on_the_way_has_the_one_towards_itself_left_out(
    ring: LineNetwork, monkeypatch: pytest.MonkeyPatch, link: str, party: PartyId, code: str
) -> None:
    told(ring)
    refuse_once(monkeypatch, B, code, hindrance(link, party, "too few"))
    assert ring.source(ring.asked()) == LONG
    assert left_out(ring) == {"a-b": 1}
    assert misnamed_at(ring) == [f"km/a FAILED {code}: km/b named '{link}', which is not ahead on the way"]


@pytest.mark.parametrize("link", ["a-d", "d-e"])
def test_a_relay_holds_what_the_next_one_misnames_against_the_link_between_them(
    ring: LineNetwork, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    light(ring, "b-c", 0.06)
    told(ring)
    refuse_once(monkeypatch, E, "LINK_BARRED", hindrance(link, E, "too noisy"))
    assert ring.source(ring.asked()) == SHORT
    assert left_out(ring).keys() == {"d-e"}
    assert misnamed_at(ring) == (
        [] if link == "d-e" else ["km/d FAILED LINK_BARRED: km/e named 'a-d', which is not ahead on the way"]
    )


@pytest.mark.parametrize(
    ("link", "held"),
    [("a-d", {"a-b": 1}), ("b-c", {"b-c": 1}), ("c-e", {}), ("x-y", {})],
)
def test_where_the_tables_led_only_a_known_link_of_the_next_one_counts(
    ring: LineNetwork, monkeypatch: pytest.MonkeyPatch, link: str, held: dict[str, int]
) -> None:
    told(ring)
    ring.clock.advance(int(2 * BELIEVED_S * 1e6))
    refuse_once(monkeypatch, B, "KEY_SHORTAGE", hindrance(link, B, "too few"))
    asked = ring.asked()
    assert left_out(ring) == held
    if held:
        assert ring.source(asked) == LONG
    else:
        assert ring.refusal(asked).detail == hindrance(link, B, "too few")


# --- what a QKMP could tell -------------------------------------------------------------------------------------------


def lied(ring: LineNetwork, *links: tuple[str, PartyId, PartyId]) -> None:
    made = tuple(LinkSight(name, (one, far), 10**6, 0.0, 0.0, False, False, 0.0) for name, one, far in links)
    with ring.desk(A) as km:
        keep(km.desk, NetworkSight(0, BELIEVED_S, 0.05, made))


@pytest.mark.parametrize(
    "links",
    [
        (),
        (("x-y", PartyId("km/x"), PartyId("km/y")),),
        (("a-c", A, C),),
        (("a-b", A, C),),
        (("b-b", B, B),),
    ],
)
def test_what_shows_no_way_leaves_it_to_the_tables(ring: LineNetwork, links: Any) -> None:
    lied(ring, *links)
    assert tabled(ring)
    assert ring.source(ring.asked()) == SHORT


def test_of_two_links_between_the_same_two_the_fuller_counts(ring: LineNetwork) -> None:
    lied(ring, ("b-c", B, C), ("b-c-2", C, B))
    assert ring.source(ring.asked()) == SHORT


# --- ways that are wrong ----------------------------------------------------------------------------------------------

RELAYED = KeyRelay("a-b", 1, 0, 256, (), b"", SAE_A, SAE_C, C, (A,), (A, B, C))
MANY = tuple(PartyId(f"km/{number}") for number in range(MOST_ON_A_WAY))


def test_a_way_that_leads_here_and_on_is_taken() -> None:
    check_way(B, RELAYED, A)
    check_way(C, msgspec.structs.replace(RELAYED, path=(A, B)), B)
    check_way(B, msgspec.structs.replace(RELAYED, way=()), A)


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({"way": (A, D, E, C)}, "km/a is not before km/b on it, as km/a, km/b had the keys so far"),
        ({"way": (A, D, B, C)}, "km/a is not before km/b on it"),
        ({"way": (B, C)}, "km/a is not before km/b on it"),
        ({"way": (A, B, C), "path": (D,)}, "km/a is not before km/b on it"),
        ({"way": (A, B, C), "path": (A, D)}, "km/a is not before km/b on it"),
        ({"way": (A, B, C), "path": ()}, "km/a is not before km/b on it"),
        ({"way": (A, B, A, C)}, "it leads in a circle"),
        ({"way": (A, B, D, B, C)}, "it leads in a circle"),
        ({"way": (A, B)}, "it ends at km/b, and the keys are for km/c"),
        ({"way": (A, B, C, D)}, "it ends at km/d, and the keys are for km/c"),
        ({"way": (A, B, *MANY, C)}, "a way has at most 256 key managers, not 259"),
        ({"way": (A, B), "target": A}, "it ends at km/b, and the keys are for km/a"),
    ],
)
def test_a_way_that_is_none_is_refused(changed: dict[str, Any], wrong: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_way(B, msgspec.structs.replace(RELAYED, **changed), A)
    assert refused.value.code == "WRONG_WAY"
    assert wrong in refused.value.detail


def test_a_way_that_another_than_its_last_relay_sends_is_refused() -> None:
    with pytest.raises(Refusal, match="km/d is not before km/b on it"):
        check_way(B, RELAYED, D)


@pytest.mark.parametrize(
    ("way", "code", "detail"),
    [
        ((A, B, E, C), "NO_ROUTE", "link a-b at km/b: no link joins km/b and km/e"),
        ((A, B, PartyId("km/x"), C), "NO_ROUTE", "link a-b at km/b: no link joins km/b and km/x"),
        ((A, D, E, C), "WRONG_WAY", "link a-b at km/b: km/a, km/d, km/e, km/c is no way for these keys"),
        ((A, B, C, B), "WRONG_WAY", "link a-b at km/b: km/a, km/b, km/c, km/b is no way for these keys"),
    ],
)
def test_an_origin_that_names_a_wrong_way_is_refused_and_the_named_bits_are_gone_at_both_ends(
    ring: LineNetwork, way: tuple[PartyId, ...], code: str, detail: str
) -> None:
    ring.lie(A, KeyRelay, lambda relay: msgspec.structs.replace(relay, way=way))
    refusal = ring.refusal(ring.asked())
    assert (refusal.code, refusal.detail[: len(detail)]) == (code, detail)
    assert ring.units_left(A, "a-b") == ring.units_left(B, "a-b")
    with ring.desk(C) as km:
        assert list(km.stored.items()) == []
