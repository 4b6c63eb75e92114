"""A provenance looked at again, long after it was accepted: what it says, and which of its signatures still hold.

Whoever accepts a batch takes the whole of its provenance or nothing (`provenance.verify`). Whoever looks back wants to
see all of it, also where a certificate has ended since, and to be told which statements nobody vouches for any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from qsotn.errors import PeerError
from qsotn.keynetwork import provenance
from qsotn.keynetwork.provenance import KeyOf, Statement


@dataclass(frozen=True)
class Examined:
    """One statement as it stands there; `failure` says why it does not verify by itself, and is empty if it does."""

    statement: Statement
    failure: str


@dataclass(frozen=True)
class Examination:
    """The statements by share, and the provenance in plain words.

    `failure` is the first thing that does not hold of the whole: each may be signed, and they need not fit together.
    """

    chains: tuple[tuple[Examined, ...], ...]
    account: str
    failure: str


def examine(encoded: bytes, key_of: KeyOf) -> Examination:
    """Look at every statement of a provenance. Raises `MalformedMessage` for what is none."""
    signed = provenance.signed_chains(encoded)
    chains = tuple(tuple(_examined(one, key_of) for one in chain) for chain in signed)
    try:
        return Examination(chains, provenance.describe(encoded, key_of), "")
    except PeerError as error:
        return Examination(chains, provenance.describe(encoded), str(error))


def _examined(signed: bytes, key_of: KeyOf) -> Examined:
    try:
        return Examined(provenance.open_statement(signed, key_of), "")
    except PeerError as error:
        return Examined(provenance.claimed_statement(signed), str(error))
