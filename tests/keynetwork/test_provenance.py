"""A chain of statements holds as a whole or not at all, whoever changes what in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.keynetwork.conftest import FAR, NEAR, RELAY, SAE_A, START

from qsotn.crypto import cbor, envelope, labels
from qsotn.crypto.identity import Identity, TrustAnchors, Verified, verify_certificate
from qsotn.domain import PartyId, Secret
from qsotn.errors import BadProof, BadSignature, MalformedMessage, PeerError
from qsotn.keynetwork import provenance
from qsotn.keynetwork.provenance import KeyOf, Order, Statement, leg
from qsotn.keynetwork.relay import Mode, UnitRange

replace = msgspec.structs.replace
WAY = (NEAR, RELAY, FAR)
LINKS = ("jinan-weifang", "weifang-qingdao")
UNITS = Secret(bytes(range(128)))
ORDER = Order("batch", 0, 1, NEAR, FAR, 1, 100, 4, Mode.ONE_TIME_PAD, WAY, 2_000_000_000_000_000)
Identities = dict[PartyId, Identity]
Change = Callable[[list[Statement]], object]


@pytest.fixture(scope="session")
def identities(certified: tuple[Identities, TrustAnchors]) -> Identities:
    return certified[0]


@pytest.fixture(scope="session")
def key_of(certified: tuple[Identities, TrustAnchors]) -> KeyOf:
    found, anchors = certified
    moment = datetime.fromtimestamp(START / 1e6, UTC)

    def key(party: PartyId) -> Verified:
        if party not in found:
            raise BadSignature(f"nobody has a certificate of {party}")
        return verify_certificate(found[party].chain, anchors, moment)

    return key


def statements(order: Order = ORDER, way: tuple[PartyId, ...] = WAY) -> list[Statement]:
    """What everybody on the way would say, without the digests that join them."""
    legs = [leg(link, (UnitRange(1, 7, 4),), b"" if not at else bytes([at])) for at, link in enumerate(LINKS)]
    commitment = provenance.commitment(order, UNITS)
    return [
        Statement(
            order=order,
            position=at,
            party=party,
            next=way[at + 1] if at + 1 < len(way) else PartyId(""),
            received=legs[at - 1] if at else None,
            passed=legs[at] if at + 1 < len(way) else None,
            possession=commitment,
            previous=b"",
            at=0,
        )
        for at, party in enumerate(way)
    ]


def signed(identities: Identities, told: list[Statement], *, joined: bool = True) -> list[bytes]:
    """Sign each as its party, each upon the one before."""
    chain: list[bytes] = []
    for one in told:
        previous = provenance.digest(chain[-1]) if chain and joined else one.previous
        chain.append(provenance.sign(identities[one.party], replace(one, previous=previous)))
    return chain


def test_an_honest_chain_holds_and_says_who_did_what(identities: Identities, key_of: KeyOf) -> None:
    chain = signed(identities, statements())
    found = provenance.verify_chain(chain, key_of, complete=True)
    assert [one.party for one in found] == list(WAY)
    assert provenance.verify(provenance.encode([chain]), key_of).order == ORDER


@pytest.mark.parametrize("length", [1, 2])
def test_the_beginning_of_a_chain_holds_and_is_not_complete(identities: Identities, key_of: KeyOf, length: int) -> None:
    chain = signed(identities, statements())[:length]
    assert len(provenance.verify_chain(chain, key_of, complete=False)) == length
    with pytest.raises(BadProof, match="before its last"):
        provenance.verify_chain(chain, key_of, complete=True)


def _set(at: int, **changes: Any) -> Change:
    def change(told: list[Statement]) -> None:
        told[at] = replace(told[at], **changes)

    return change


def _order(at: int, **changes: Any) -> Change:
    def change(told: list[Statement]) -> None:
        told[at] = replace(told[at], order=replace(told[at].order, **changes))

    return change


def _everywhere(**changes: Any) -> Change:
    def change(told: list[Statement]) -> None:
        told[:] = [replace(one, order=replace(one.order, **changes)) for one in told]

    return change


OTHER_LEG = leg("another", (UnitRange(1, 7, 4),), b"")
WRONG: dict[str, tuple[Change, str]] = {
    "other bits at the relay": (_set(1, possession=bytes(48)), "other bits than the origin"),
    "other bits at the end": (_set(2, possession=bytes(48)), "other bits than the origin"),
    "received what was not sent": (_set(1, received=OTHER_LEG), "something else than"),
    "sent what was not received": (_set(1, passed=OTHER_LEG), "something else than"),
    "another order": (_order(1, first=101), "another order"),
    "another mode": (_order(2, mode=Mode.AES_WRAPPED), "pass|another order|takes"),
    "another position": (_set(1, position=2), "not one of position 1"),
    "begun by another": (_everywhere(origin=RELAY), "begins the chain"),
    "nobody next": (_set(1, next=PartyId("")), "without a next hop"),
    "somebody after the end": (_set(2, next=NEAR), "without a next hop"),
    "passed to another": (_set(0, next=FAR), "passed on to km/qingdao"),
    "another path": (_everywhere(path=(NEAR, FAR)), "was to go over"),
    "a share that is not": (_everywhere(share=1), "share 1 of 1"),
    "no units": (_everywhere(units=0), "with 0 units"),
    "more units than there are": (_everywhere(units=5), "where it takes 5"),
    "no piece": (_set(0, passed=leg(LINKS[0], (), b"")), "where it takes 4"),
    "a negative piece": (
        _set(0, passed=leg(LINKS[0], (UnitRange(1, 0, 5), UnitRange(1, 0, -1)), b"")),
        "where it takes 4",
    ),
    "too few under aes": (_everywhere(mode=Mode.AES_WRAPPED), "where it takes 1"),
    "nothing received": (_set(1, received=None), "not one of position 1"),
    "something received at the origin": (_set(0, received=OTHER_LEG), "not one of position 0"),
    "a relay twice": (lambda told: told.insert(2, replace(told[1], position=2, received=told[1].passed)), "follows"),
    "one left out": (lambda told: told.pop(1), "not one of position 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_chain_in_which_one_thing_is_wrong_does_not_hold(identities: Identities, key_of: KeyOf, name: str) -> None:
    change, complaint = WRONG[name]
    told = statements()
    change(told)
    with pytest.raises(BadProof, match=complaint):
        provenance.verify_chain(signed(identities, told), key_of, complete=False)


@pytest.mark.parametrize("length", [2, 3], ids=["passed back", "went back"])
def test_a_chain_without_a_given_path_passes_nobody_twice(identities: Identities, key_of: KeyOf, length: int) -> None:
    told = statements(replace(ORDER, path=()), (NEAR, RELAY, NEAR))[:length]
    with pytest.raises(BadProof, match="twice"):
        provenance.verify_chain(signed(identities, told), key_of, complete=False)


def test_a_statement_quotes_the_bytes_before_it(identities: Identities, key_of: KeyOf) -> None:
    told = [replace(one, previous=bytes(48)) if one.position else one for one in statements()]
    with pytest.raises(BadProof, match="follows another statement"):
        provenance.verify_chain(signed(identities, told, joined=False), key_of, complete=True)


def test_a_chain_of_another_supply_does_not_go_on_from_this_one(identities: Identities, key_of: KeyOf) -> None:
    this = signed(identities, statements())
    other = signed(identities, statements(replace(ORDER, batch="another")))
    with pytest.raises(BadProof):
        provenance.verify_chain([*this[:2], other[2]], key_of, complete=True)


@pytest.mark.parametrize("at", range(3))
def test_nobody_signs_for_another(identities: Identities, key_of: KeyOf, at: int) -> None:
    told = statements()
    chain = signed(identities, told)
    chain[at] = provenance.sign(identities[SAE_A], replace(told[at], previous=chain[at - 1] if at else b""))
    with pytest.raises(BadProof, match=f"qssp/jinan signed a statement of {WAY[at]}"):
        provenance.verify_chain(chain, key_of, complete=True)


@pytest.mark.parametrize("at", range(3))
def test_a_bent_signature_does_not_hold(identities: Identities, key_of: KeyOf, at: int) -> None:
    chain = signed(identities, statements())
    chain[at] = chain[at][:-1] + bytes([chain[at][-1] ^ 1])
    with pytest.raises(PeerError):
        provenance.verify_chain(chain, key_of, complete=True)


def test_what_was_signed_for_another_purpose_is_no_statement(identities: Identities, key_of: KeyOf) -> None:
    payload = envelope.claimed_payload(signed(identities, statements())[0])
    with pytest.raises(BadSignature):
        provenance.open_statement(envelope.sign(identities[NEAR], labels.MESSAGE, payload), key_of)


@pytest.mark.parametrize("encoded", [b"", cbor.encode([1, []]), cbor.encode([1, [[]]]), cbor.encode([2, [[b""]]])])
def test_other_bytes_are_no_provenance(key_of: KeyOf, encoded: bytes) -> None:
    with pytest.raises(MalformedMessage):
        provenance.verify(encoded, key_of)


@pytest.mark.parametrize("length", [0, provenance.MAXIMUM_HOPS + 1])
def test_a_chain_is_neither_empty_nor_endless(identities: Identities, key_of: KeyOf, length: int) -> None:
    one = signed(identities, statements())[0]
    with pytest.raises(MalformedMessage, match="1 to 64"):
        provenance.verify_chain([one] * length, key_of, complete=False)


# --- several shares -------------------------------------------------------------------------------------------------


def _share(number: int, way: tuple[PartyId, ...], **changes: Any) -> list[Statement]:
    return statements(replace(ORDER, **({"share": number, "shares": 2, "path": way} | changes)), way)


def test_two_shares_do_not_pass_the_same_relay(identities: Identities, key_of: KeyOf) -> None:
    chains = [signed(identities, _share(number, WAY)) for number in (0, 1)]
    with pytest.raises(BadProof, match="same relay"):
        provenance.verify(provenance.encode(chains), key_of)


@pytest.mark.parametrize("changes", [{"first": 5}, {"batch": "another"}, {"series": 2}, {"share": 0}, {"shares": 3}])
def test_two_shares_are_of_one_batch(identities: Identities, key_of: KeyOf, changes: dict[str, Any]) -> None:
    other = _share(1, (NEAR, FAR), **changes)
    chains = [signed(identities, _share(0, WAY)), signed(identities, other)]
    with pytest.raises(BadProof, match="belongs to another batch"):
        provenance.verify(provenance.encode(chains), key_of)


def test_two_shares_over_disjoint_paths_are_one_provenance(identities: Identities, key_of: KeyOf) -> None:
    chains = [signed(identities, _share(0, WAY)), signed(identities, _share(1, (NEAR, FAR)))]
    found = provenance.verify(provenance.encode(chains), key_of)
    assert [[one.party for one in told] for told in found.chains] == [[NEAR, RELAY, FAR], [NEAR, FAR]]


# --- words ----------------------------------------------------------------------------------------------------------


def test_a_description_says_whether_anybody_looked_at_the_signatures(identities: Identities, key_of: KeyOf) -> None:
    chain = signed(identities, statements())
    kept = provenance.encode([chain])
    assert provenance.describe(kept).splitlines()[0].endswith("signatures NOT verified")
    assert provenance.describe(kept, key_of).splitlines()[0].endswith("every signature verified")
    bent = provenance.encode([[*chain[:2], chain[2][:-1] + bytes([chain[2][-1] ^ 1])]])
    with pytest.raises(BadSignature):
        provenance.describe(bent, key_of)


@pytest.mark.parametrize("units", [Secret(bytes(128)), Secret(bytes(range(127, -1, -1)))])
def test_a_commitment_is_of_these_bits_in_this_order_alone(units: Secret) -> None:
    assert provenance.commitment(ORDER, units) != provenance.commitment(ORDER, UNITS)
    assert provenance.commitment(replace(ORDER, batch="another"), UNITS) != provenance.commitment(ORDER, UNITS)


def test_whether_a_chain_is_linked_is_asked_of_its_bytes(identities: Identities) -> None:
    chain = signed(identities, statements())
    assert provenance.is_linked(chain)
    assert not provenance.is_linked([chain[0][:-1] + b"\0", *chain[1:]])
    assert not provenance.is_linked(chain[1:])
    assert not provenance.is_linked([])
