"""The token that lets one CPE take part in one line: issued by the POMP (Figure 4, step 1), checked by PMP and POMP.

A COSE_Sign1 over account, line, CPE and expiry. It is shown, not spent: step 3 proves it by its digest in a message
that the device signs, so a token seen on Ax is of no use to another device.
"""

from __future__ import annotations

import msgspec

from qsotn.crypto import cbor, envelope, labels
from qsotn.crypto.identity import Identity, Verified
from qsotn.domain import LineId, PartyId
from qsotn.errors import BadProof, MalformedMessage, WrongParty


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token says. `expires_at` in microseconds since the epoch; `nonce` makes two tokens differ."""

    account: str
    line: LineId
    cpe: PartyId
    expires_at: int
    nonce: bytes


def issue(identity: Identity, token: Token) -> bytes:
    """Sign a token as the POMP."""
    return envelope.sign(identity, labels.TOKEN, cbor.encode(msgspec.to_builtins(token, builtin_types=(bytes,))))


def verify(signed: bytes, issuer: Verified, line: LineId, cpe: PartyId, now: int) -> Token:
    """Verify that `issuer` gave this CPE this token for this line. Raises `BadProof` with what does not hold."""
    opened = envelope.open_signed(signed, labels.TOKEN, lambda _: issuer.verification_key)
    if opened.kid != issuer.party.encode():
        raise WrongParty(f"the token for {cpe} names another issuer than {issuer.party}")
    try:
        token = msgspec.convert(cbor.decode(opened.payload), Token, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedMessage(f"the token for {cpe} is not a token: {error}") from None
    if (token.line, token.cpe) != (line, cpe):
        raise BadProof(f"the token is for {token.cpe} on {token.line}, not for {cpe} on {line}")
    if token.expires_at <= now:
        raise BadProof(f"the token for {cpe} on {line} expired {(now - token.expires_at) / 1e6:.0f} s ago")
    return token


def digest(signed: bytes) -> bytes:
    """The digest by which step 3 proves a token and step 5 quotes it."""
    return envelope.digest(signed)
