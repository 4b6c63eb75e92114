"""Deterministic CBOR and COSE bytes ↔ messages: the only place where a message becomes bytes or bytes a message.

Three layers, outermost first. A *datagram* says who hands what to whom over which interface; it is unsigned, and all a
courier sees. On a sealed interface its body is an HPKE ciphertext to the receiver. Inside is the *signed envelope*:
COSE_Sign1 (RFC 9052) with ML-DSA (RFC 9964) over deterministic CBOR (RFC 8949 section 4.2).

What always holds: nothing is interpreted before its signature verified, and a datagram's outer names must equal the
signed ones. Signing comes before sealing, and the envelope names its receiver, so a message cannot be re-sealed for
another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from qsotn import messages
from qsotn.crypto import cbor, envelope, labels
from qsotn.crypto.identity import Identity, Verified
from qsotn.domain import PartyId, ProcedureId, Secret
from qsotn.errors import BadSignature, MalformedMessage, WrongParty
from qsotn.interfaces import BY_NAME, Interface, Seat

MAXIMUM_DATAGRAM = 4 * 1024 * 1024
VERSION = 1
TRACEPARENT = "^(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?$"
"""W3C Trace Context, version 00, section 3.2.2; or nothing."""

M = TypeVar("M", bound=messages.Message)


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every message carries beside its own fields. Times in microseconds since the epoch."""

    version: int
    interface: str
    procedure: ProcedureId
    ladder: str
    step: str
    message: str
    sender: PartyId
    receiver: PartyId
    sender_seat: Seat
    receiver_seat: Seat
    issued_at: int
    expires_at: int
    nonce: bytes
    answers: bytes
    body: dict[str, Any]

    def __repr__(self) -> str:
        return f"Envelope({self.message} {self.ladder}/{self.step} {self.sender}→{self.receiver} {self.procedure})"


class Datagram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a transport carries. `introductions` are certificate chains; one that does not verify refuses all of it.

    `traceparent` (W3C Trace Context) follows a procedure through all parties. It is unsigned and decides nothing.
    """

    interface: str
    sender: PartyId
    receiver: PartyId
    body: bytes
    introductions: tuple[messages.Chain, ...] = ()
    traceparent: Annotated[str, msgspec.Meta(pattern=TRACEPARENT)] = ""


@dataclass(frozen=True)
class Received(Generic[M]):
    """A verified message: its envelope, itself, the exact bytes its author signed, and their digest."""

    envelope: Envelope
    message: M
    signed: bytes = field(repr=False)
    """On a sealed interface these bytes hold what was sealed: never shown."""
    digest: bytes


def _registry() -> dict[str, type[messages.Message]]:
    found = {}
    for value in vars(messages).values():
        if isinstance(value, type) and issubclass(value, messages.Message) and value is not messages.Message:
            found[value.__name__] = value
    return found


MESSAGE_TYPES = _registry()


def _reveal(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} has no form on the wire")


def _conceal(expected: type, value: Any) -> Any:
    if expected is Secret and isinstance(value, bytes):
        return Secret(value)
    raise TypeError(f"expected {expected.__name__}")


def body_of(message: messages.Message) -> dict[str, Any]:
    """Return a message's own fields as plain CBOR types."""
    plain: dict[str, Any] = msgspec.to_builtins(message, builtin_types=(bytes,), enc_hook=_reveal)
    return plain


def encode(value: msgspec.Struct) -> bytes:
    """Encode a struct of this module as deterministic CBOR."""
    return cbor.encode(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=_reveal))


def _convert(plain: object, expected: type[Any], what: str) -> Any:
    try:
        return msgspec.convert(plain, expected, builtin_types=(bytes,), dec_hook=_conceal)
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"{what} is not of its declared type: {error}") from None


def sign(identity: Identity, content: Envelope) -> bytes:
    """Sign an envelope as its sender."""
    return sign_all(identity, [content])[0]


def sign_all(identity: Identity, contents: Sequence[Envelope]) -> list[bytes]:
    """Sign several envelopes at the price of one signature; each result stands by itself, for any receiver."""
    return envelope.sign_all(identity, labels.MESSAGE, [encode(content) for content in contents])


def open_signed(signed: bytes, key_of: Callable[[PartyId], Verified]) -> Received[messages.Message]:
    """Verify one signed message and return it typed.

    Raises `BadSignature` unless the party named as sender inside is the one whose key verifies it, `MalformedMessage`
    for anything that is not canonical or not of the type it names.
    """
    opened = envelope.open_signed(signed, labels.MESSAGE, lambda kid: key_of(_party(kid)).verification_key)
    content: Envelope = _convert(cbor.decode(opened.payload), Envelope, "the envelope")
    if content.sender != _party(opened.kid):
        raise BadSignature(f"{_party(opened.kid)} signed a message that names {content.sender} as its sender")
    if content.version != VERSION:
        raise MalformedMessage(f"envelope version {content.version}; this release speaks {VERSION}")
    if content.message not in MESSAGE_TYPES:
        raise MalformedMessage(f"no message type {content.message!r}")
    message = _convert(content.body, MESSAGE_TYPES[content.message], content.message)
    return Received(content, message, signed, opened.digest)


def open_as(expected: type[M], signed: bytes, author: PartyId, key_of: Callable[[PartyId], Verified]) -> Received[M]:
    """Verify a message that another party relays as evidence, and that `author` must have written.

    Raises `WrongParty` for another author, `MalformedMessage` for another type.
    """
    received = open_signed(signed, key_of)
    if received.envelope.sender != author:
        raise WrongParty(f"expected a message of {author}, this one is by {received.envelope.sender}")
    if not isinstance(received.message, expected):
        raise MalformedMessage(f"expected {expected.__name__}, this is {received.envelope.message}")
    return Received(received.envelope, received.message, signed, received.digest)


def claimed_author(signed: bytes) -> PartyId:
    """Return the author a message claims, to choose whose key must verify it. Never a decision by itself."""
    return _party(envelope.claimed_signer(signed))


def peek(expected: type[M], signed: bytes) -> M:
    """Read a message *without* verifying it, to find the certificates it offers; verify it before any other use."""
    content: Envelope = _convert(cbor.decode(envelope.claimed_payload(signed)), Envelope, "the envelope")
    peeked: M = _convert(content.body, expected, expected.__name__)
    return peeked


def _party(kid: bytes) -> PartyId:
    try:
        return PartyId(kid.decode("ascii"))
    except UnicodeDecodeError:
        raise MalformedMessage("the key identifier is not a party") from None


def _seal_info(interface: Interface, sender: PartyId, receiver: PartyId) -> bytes:
    return cbor.encode([labels.SEALED, interface.name, sender, receiver])


def digest(signed: bytes) -> bytes:
    """The name of one signed message: SHA-384 of its bytes, as `answers` and rows quote it."""
    return envelope.digest(signed)


def pack(
    interface: Interface,
    content: Envelope,
    signed: bytes,
    receiver: Verified | None,
    introductions: tuple[messages.Chain, ...] = (),
    traceparent: str = "",
) -> Datagram:
    """Wrap a signed message for the wire, sealing it to `receiver` where the interface is sealed."""
    body = signed
    if interface.sealed:
        if receiver is None:
            raise WrongParty(f"{interface.name} is sealed and {content.receiver} has no certified key to seal to")
        info = _seal_info(interface, content.sender, content.receiver)
        body = envelope.seal(receiver.suite, receiver.kem_public, signed, info)
    return Datagram(interface.name, content.sender, content.receiver, body, introductions, traceparent)


def unpack(data: bytes) -> Datagram:
    """Parse a datagram. Raises `MalformedMessage`."""
    datagram: Datagram = _convert(cbor.decode(data, max_size=MAXIMUM_DATAGRAM), Datagram, "the datagram")
    if datagram.interface not in BY_NAME:
        raise MalformedMessage(f"no interface {datagram.interface!r}")
    return datagram


def interface_of(data: bytes) -> str:
    """Return the interface of a datagram of this party's own outbox. Raises `MalformedMessage`."""
    return unpack(data).interface


def open_datagram(
    datagram: Datagram, identity: Identity, key_of: Callable[[PartyId], Verified]
) -> Received[messages.Message]:
    """Unseal where needed, verify, and hold the outer names against the signed ones.

    Raises `BadProof` (not sealed to us), `BadSignature`, `MalformedMessage`, or `WrongParty`.
    """
    interface = BY_NAME[datagram.interface]
    signed = datagram.body
    if interface.sealed:
        info = _seal_info(interface, datagram.sender, datagram.receiver)
        signed = envelope.unseal(identity.suite, identity.kem, signed, info)
    received = open_signed(signed, key_of)
    inner = (received.envelope.interface, received.envelope.sender, received.envelope.receiver)
    if inner != (datagram.interface, datagram.sender, datagram.receiver):
        raise WrongParty(f"the datagram's outer names do not match what {received.envelope.sender} signed")
    return received
