"""Who spoiled a supply: every key manager on the way testifies, with bits that nobody will ever use.

When a supply fails, its origin has destroyed its units, and no key is ever made of them. So those who relayed may show
what they would otherwise have to keep: the bits of their links under which it travelled. Three kinds of evidence come
together. Each hop signed what it received and passed on *when it did so* (`provenance`). The two ends of a link hold
the same bits of it, which they compared when its block became available. And the origin committed to what it sent.

A hop that passes on other bits than it was given, or a broken chain, is found by the next honest one, which refuses
and *complains*. From the complaint and both ends' bits of that link everybody can compute what crossed it, and so
which of the two lied. One who lies once more, about the bits of the link, is not told apart from its neighbour: then
both are named, with the link. Who answers nobody is named by the one that waited for its receipt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec

from qsotn.domain import PartyId, Secret
from qsotn.errors import PeerError
from qsotn.keynetwork import provenance
from qsotn.keynetwork.provenance import KeyOf, Order, Statement
from qsotn.keynetwork.relay import uncover


class Outcome(StrEnum):
    """How a supply ended at one key manager, by its own account."""

    UNKNOWN = "UNKNOWN"
    """It never took this share."""
    COMPLAINED = "COMPLAINED"
    """It refused what the one before it sent; `code` says why."""
    REFUSED = "REFUSED"
    """It could not carry it on; `code` and `link` say why."""
    UNANSWERED = "UNANSWERED"
    """It passed the share on, and no receipt came."""
    TOLD_BY_NEXT = "TOLD_BY_NEXT"
    """It passed the share on, and whom it passed it to refused."""
    TOLD = "TOLD"
    """It passed the share on, or held it, and was told by the one before, or by the origin, that the supply failed."""


COMPLAINTS = frozenset({"KEY_MISMATCH", "BAD_PROVENANCE", "WRONG_MESSAGE", "KEY_REUSED", "BLOCK_MISMATCH"})
"""Codes of refusals that accuse the one before. What the last three accuse of leaves nothing that both have signed."""


_REASONS = frozenset({Outcome.COMPLAINED, Outcome.REFUSED, Outcome.UNANSWERED, Outcome.TOLD_BY_NEXT})
"""How a supply ends at one who has not given its receipt, and has a reason."""


class Testimony(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One key manager's account of one share that is burnt.

    `chain` are the statements it has, its own the last if it made one; `ciphertext` and `pad_in` what it refused and
    the bits of the link that it came under; `pad_out` the bits under which it passed the share on. At the origin
    `pad_out` are the units themselves.
    """

    outcome: Outcome
    code: str = ""
    link: str = ""
    next: PartyId = PartyId("")
    chain: tuple[bytes, ...] = ()
    ciphertext: bytes = b""
    pad_in: bytes = b""
    pad_out: bytes = b""


class Charge(StrEnum):
    """What somebody is named for."""

    PASSED_OTHER_BITS = "PASSED_OTHER_BITS"
    SIGNED_BROKEN_CHAIN = "SIGNED_BROKEN_CHAIN"
    ACCUSED_FALSELY = "ACCUSED_FALSELY"
    LINK_DISAGREES = "LINK_DISAGREES"
    """The two ends of a link show different bits of it, or tell contrary stories of it: one of them lies."""
    WITHHELD_EVIDENCE = "WITHHELD_EVIDENCE"
    GAVE_FALSE_RECEIPT = "GAVE_FALSE_RECEIPT"
    SILENT = "SILENT"
    COULD_NOT_CARRY = "COULD_NOT_CARRY"
    """No lie: a link had too few bits, or was not there."""


class Finding(msgspec.Struct, frozen=True):
    """Who is named, for what, and on which link. Two parties are named where the evidence does not part them."""

    parties: tuple[PartyId, ...]
    charge: Charge
    link: str = ""


def verdict(
    order: Order, testimonies: Mapping[PartyId, Testimony | None], path: Sequence[PartyId], key_of: KeyOf
) -> tuple[Finding, ...]:
    """Say who spoiled a share. `testimonies` holds the origin's own, and None for whoever did not testify in time."""
    findings: list[Finding] = []
    for index, party in enumerate(path):
        testimony = testimonies.get(party)
        if testimony is None:
            continue
        if testimony.outcome is Outcome.COMPLAINED and index:
            before = path[index - 1]
            findings.append(_complaint(order, testimonies.get(before), testimony, (before, party), key_of))
        elif testimony.outcome is Outcome.REFUSED:
            findings.append(Finding((party,), Charge.COULD_NOT_CARRY, testimony.link))
        elif testimony.outcome in (Outcome.UNANSWERED, Outcome.TOLD_BY_NEXT):
            findings += _next_one(testimonies, testimony, path, index)
    return tuple(dict.fromkeys(_without(path[0], one) for one in findings or _last_resort(testimonies, path)))


def _without(origin: PartyId, finding: Finding) -> Finding:
    """The origin judges for itself: where it or its neighbour lies, it knows which."""
    others = tuple(party for party in finding.parties if party != origin)
    return msgspec.structs.replace(finding, parties=others or finding.parties)


def _next_one(
    testimonies: Mapping[PartyId, Testimony | None], waiting: Testimony, path: Sequence[PartyId], index: int
) -> list[Finding]:
    """Judge whom a share was passed to, by one who got no receipt from it.

    It is named alone if it says nothing now either. If it owns to a reason, that is judged by itself. Otherwise it is
    word against word.
    """
    waiter, accused = path[index], path[index + 1] if index + 1 < len(path) else waiting.next
    told = testimonies.get(accused)
    if waiting.outcome is Outcome.UNANSWERED and waiting.code == "BAD_RECEIPT":
        return [Finding((waiter, accused), Charge.GAVE_FALSE_RECEIPT, waiting.link)]
    if told is None:
        return [Finding((accused,), Charge.SILENT, waiting.link)]
    if told.outcome in _REASONS:
        return []
    charge = Charge.SILENT if waiting.outcome is Outcome.UNANSWERED else Charge.LINK_DISAGREES
    return [Finding((waiter, accused), charge, waiting.link)]


def _last_resort(testimonies: Mapping[PartyId, Testimony | None], path: Sequence[PartyId]) -> list[Finding]:
    """Nobody owned up to anything: name whoever gave no testimony, else the first link where the story breaks off."""
    mute = [party for party in path if testimonies.get(party) is None]
    if mute:
        return [Finding((party,), Charge.SILENT) for party in mute]
    for one, other in pairwise(path):
        before, after = testimonies[one], testimonies[other]
        if before is not None and after is not None and after.outcome is Outcome.UNKNOWN:
            return [Finding((one, other), Charge.LINK_DISAGREES, before.link)]
    return []


# --- one complaint --------------------------------------------------------------------------------------------------


def _complaint(
    order: Order,
    accused: Testimony | None,
    complaint: Testimony,
    pair: tuple[PartyId, PartyId],
    key_of: KeyOf,
) -> Finding:
    """Judge between the two ends of a link: the one that is accused, and the one that complains."""
    if accused is None:
        return Finding(pair[:1], Charge.SILENT, complaint.link)
    match complaint.code:
        case "KEY_MISMATCH":
            return _judge_bits(order, accused, complaint, pair, key_of)
        case "BAD_PROVENANCE":
            return _judge_chain(complaint, pair, key_of)
    return Finding(pair, Charge.LINK_DISAGREES, complaint.link)


def _judge_bits(
    order: Order, accused: Testimony, complaint: Testimony, pair: tuple[PartyId, PartyId], key_of: KeyOf
) -> Finding:
    """Compute what crossed the link from the bits that both ends show and from what the accused signed."""
    before, complainer, link = pair[:1], pair[1:], complaint.link
    try:
        sent = provenance.verify_chain(complaint.chain, key_of, complete=False)[-1]
    except PeerError:
        return Finding(complainer, Charge.ACCUSED_FALSELY, link)
    if (sent.party, sent.next) != pair or sent.order != order or not _shows(sent, complaint):
        return Finding(complainer, Charge.ACCUSED_FALSELY, link)
    if not accused.pad_out:
        return Finding(before, Charge.WITHHELD_EVIDENCE, link)
    if accused.pad_out != complaint.pad_in:
        return Finding(pair, Charge.LINK_DISAGREES, link)
    if _crossed_rightly(sent, complaint):
        return Finding(complainer, Charge.ACCUSED_FALSELY, link)
    return Finding(before, Charge.PASSED_OTHER_BITS, link)


def _judge_chain(complaint: Testimony, pair: tuple[PartyId, PartyId], key_of: KeyOf) -> Finding:
    """A chain that does not verify: its last signer is the liar if it signed on top of these very bytes.

    If the last statement is not the accused's own, or quotes other bytes, the complainer may have made it up.
    """
    try:
        last = provenance.open_statement(complaint.chain[-1], key_of)
    except (PeerError, IndexError):
        return Finding(pair, Charge.LINK_DISAGREES, complaint.link)
    if (last.party, last.next) != pair or not provenance.is_linked(complaint.chain):
        return Finding(pair, Charge.LINK_DISAGREES, complaint.link)
    try:
        provenance.verify_chain(complaint.chain, key_of, complete=False)
    except PeerError:
        return Finding(pair[:1], Charge.SIGNED_BROKEN_CHAIN, complaint.link)
    return Finding(pair[1:], Charge.ACCUSED_FALSELY, complaint.link)


def _shows(sent: Statement, complaint: Testimony) -> bool:
    """Whether what the complaint shows is what the accused signed that it sent."""
    passed = sent.passed
    return passed is not None and passed.digest == provenance.leg("", (), complaint.ciphertext).digest


def _crossed_rightly(sent: Statement, complaint: Testimony) -> bool:
    pad = Secret(complaint.pad_in)
    try:
        units = pad
        if sent.position:
            units = uncover(sent.order.mode, pad, complaint.ciphertext, provenance.hop_context(sent.order, sent.party))
    except PeerError:
        return False
    return provenance.commitment(sent.order, units) == sent.possession
