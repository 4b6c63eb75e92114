"""A party's desk: everything it has before it while it handles one message, and nothing that outlives the transaction.

Records are typed structs in named collections. Secrets lie in them only wrapped by the party's vault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec

from qsotn import wire
from qsotn.crypto.identity import Identity, TrustAnchors, Verified, verify_certificate
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, PartyId
from qsotn.errors import BadSignature, StoreError
from qsotn.messages import Chain, Message
from qsotn.ports import Transaction

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class Collection(Generic[T]):
    """The records of one kind in one party's store, as they stand in this transaction."""

    def __init__(self, transaction: Transaction, name: str, kind: type[T]) -> None:
        self._transaction = transaction
        self._name = name
        self._kind = kind

    def get(self, key: str) -> T | None:
        """Return the record under this key, or None."""
        raw = self._transaction.get(self._name, key)
        return None if raw is None else msgspec.json.decode(raw, type=self._kind)

    def require(self, key: str) -> T:
        """Return a record that must exist. Raises `StoreError` if the store lost it."""
        record = self.get(key)
        if record is None:
            raise StoreError(f"the store has no {self._name} record {key!r}")
        return record

    def put(self, key: str, record: T) -> None:
        """Write a record."""
        self._transaction.put(self._name, key, msgspec.json.encode(record))

    def delete(self, key: str) -> None:
        """Remove a record; its absence is no error."""
        self._transaction.delete(self._name, key)

    def items(self, prefix: str = "", *, after: str = "", limit: int | None = None) -> Iterator[tuple[str, T]]:
        """Yield records in key order, behind `after`."""
        for key, raw in self._transaction.scan(self._name, prefix, after=after, limit=limit):
            yield key, msgspec.json.decode(raw, type=self._kind)

    def values(self, prefix: str = "", *, after: str = "") -> Iterator[T]:
        """Yield records in key order, without their keys."""
        return (record for _, record in self.items(prefix, after=after))


class Certificates(msgspec.Struct, frozen=True):
    """One party's certificate chain, as it was verified and kept."""

    chain: Chain


@dataclass(frozen=True)
class Desk:
    """What a party works with while it handles one message. `now` in microseconds since the epoch."""

    identity: Identity
    anchors: TrustAnchors
    transaction: Transaction
    vault: Vault
    entropy: Entropy
    now: int

    @property
    def party(self) -> PartyId:
        """Whose desk this is."""
        return self.identity.party

    def collection(self, name: str, kind: type[T]) -> Collection[T]:
        """Return a typed view of one collection of this party's records."""
        return Collection(self.transaction, name, kind)

    @property
    def certificates(self) -> Collection[Certificates]:
        """The parties known here, each by the chain it was first seen with."""
        return self.collection("certificates", Certificates)

    @property
    def moment(self) -> datetime:
        """`now` as a date, for certificates."""
        return datetime.fromtimestamp(self.now / 1_000_000, UTC)

    def verify_chain(self, chain: Chain) -> Verified:
        """Verify a chain against this party's anchors. Raises `BadProof`."""
        return verify_certificate(chain, self.anchors, self.moment)

    def peer(self, party: PartyId) -> Verified:
        """Return the certified keys of a known party. Raises `BadSignature` for an unknown one."""
        known = self.certificates.get(party)
        if known is None:
            raise BadSignature(f"{self.party} has no certificate of {party}")
        return self.verify_chain(known.chain)

    def remember(self, chain: Chain) -> Verified:
        """Verify a chain and keep it as its party's. Raises `BadProof`."""
        verified = self.verify_chain(chain)
        self.certificates.put(verified.party, Certificates(chain))
        return verified

    def open_as(self, expected: type[M], signed: bytes, author: PartyId) -> wire.Received[M]:
        """Verify a relayed message by its author's key as known here."""
        return wire.open_as(expected, signed, author, self.peer)

    def open_introduced(
        self, expected: type[M], signed: bytes, author: PartyId, chain_of: Callable[[M], Chain]
    ) -> wire.Received[M]:
        """Verify a message that carries its author's own certificates: the content offers them, the anchors decide."""
        offered = chain_of(wire.peek(expected, signed))
        verified = self.verify_chain(offered)
        if verified.party != author:
            raise BadSignature(f"the statement of {author} carries the certificate of {verified.party}")
        return wire.open_as(expected, signed, author, lambda _: verified)
