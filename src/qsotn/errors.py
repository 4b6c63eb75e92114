"""The one tree of errors: whose fault is it.

    QsotnError
    ├── UsageError            the person at the keyboard: a file, an argument, a state folder
    ├── PeerError             another party sent what it must not: nothing moved, nothing was kept
    │   ├── MalformedMessage      not canonical CBOR, not of the declared type
    │   ├── BadSignature          the bytes do not verify under the claimed sender's key
    │   ├── WrongParty            a valid message, from or to someone the interface does not join
    │   ├── ReplayedMessage       a number, nonce or counter that was used before, with other bytes
    │   ├── OutOfOrder            a valid message whose step is not awaited (yet)
    │   ├── ExpiredMessage        outside its own window of validity
    │   └── BadProof              a MAC, tag, certificate or commitment that does not hold
    ├── LineError             the fibre or the far end of a line: counted, alarmed, nothing delivered
    ├── KeyShortage           no key to be had: the caller stops, it never goes on without
    ├── Refusal               a party decided no, for a reason that has a code in the paper's terms
    └── LocalError            this party itself: a store, a module, a defect
        ├── StoreError
        │   └── StoreConflict     two replicas changed the same at once: nothing was written, try again
        └── KeyReuse              something tried to use a key, an index or a nonce a second time

An error's text names identifiers and steps, never keys.
"""

from __future__ import annotations


class QsotnError(Exception):
    """Root of every error this package raises on purpose."""


class UsageError(QsotnError):
    """The request itself cannot be met: says what was wrong, where, and what would be right."""


class PeerError(QsotnError):
    """Another party broke the protocol; the receiver's state is as before."""


class MalformedMessage(PeerError):
    """Bytes that are not canonical, or not of the declared type."""


class BadSignature(PeerError):
    """Bytes that do not verify under the key of the sender they claim."""


class WrongParty(PeerError):
    """A well-formed message from, to, or over something that does not join these two parties."""


class ReplayedMessage(PeerError):
    """A step, nonce or counter that was already spent on other bytes."""


class OutOfOrder(PeerError):
    """A step that is not awaited now; the sender may try again later."""


class ExpiredMessage(PeerError):
    """A message outside its own window of validity."""


class BadProof(PeerError):
    """A MAC, authentication tag, certificate, token or commitment that does not hold."""


class LineError(QsotnError):
    """The line, or what arrived over it, is unusable: counted and alarmed, never delivered."""


class KeyShortage(QsotnError):
    """Key material is exhausted; whoever needed it fails closed."""


class Refusal(QsotnError):
    """A party's considered no. `code` is the failure name of the step's row in `docs/paper-map.md`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class LocalError(QsotnError):
    """This party's own machinery failed."""


class StoreError(LocalError):
    """The durable store cannot be read, written, or is of another version."""


class StoreConflict(StoreError):
    """Another replica changed the same records at the same time; this transaction wrote nothing and may be repeated."""


class KeyReuse(LocalError):
    """A key, key-file entry or nonce was about to be used a second time; the use was stopped."""
