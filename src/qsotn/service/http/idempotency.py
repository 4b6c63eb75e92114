"""An order is given once, however often its request arrives (draft-ietf-httpapi-idempotency-key-header-07).

The answer to an order is kept under its key in the transaction that gives the order: either both are durable or
neither. The same request then gets the same answer, byte for byte, whether the first answer reached its client or not.
An order that was refused left nothing behind, so its key is still free.

Keys belong to the peer that used them; nobody gets another's answers. They are kept for a day, and each order clears
away a few that are older.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from qsotn.domain import PartyId
from qsotn.parties.desk import Collection, Desk
from qsotn.service.http.answer import Answer, encoded
from qsotn.service.http.problems import KEY_USED_OTHERWISE, MALFORMED_REQUEST, NO_IDEMPOTENCY_KEY, HttpProblem

HEADER: Final = b"idempotency-key"
SYNTAX: Final = '^("[A-Za-z0-9._-]{1,64}"|[A-Za-z0-9._-]{1,64})$'
KEPT_US: Final = 24 * 3600 * 1_000_000
PRUNED: Final = 16
"""Expired keys that one order clears away: more than it adds."""

_KEY: Final = re.compile('"?([A-Za-z0-9._-]{1,64})"?')


@dataclass(frozen=True)
class Asked:
    """One request as it is recognised again: whose, under which key, and a digest of what was asked."""

    peer: PartyId
    key: str
    digest: bytes

    @property
    def name(self) -> str:
        """The key of its record."""
        return f"{self.peer}/{self.key}"


class Kept(msgspec.Struct, frozen=True):
    """An answer that was given, and to what."""

    digest: bytes
    status: int
    media_type: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    expires_at: int


def asked(peer: PartyId, header: str | None, *request: object) -> Asked:
    """Return how a request is recognised. Raises `HttpProblem` 400 without a key or for one that is not one."""
    if header is None:
        raise HttpProblem(NO_IDEMPOTENCY_KEY, "send Idempotency-Key with a fresh UUID, and the same one on a retry")
    found = _KEY.fullmatch(header)
    if found is None or header.count('"') == 1:
        raise HttpProblem(MALFORMED_REQUEST, "Idempotency-Key is 1 to 64 letters, digits, dots, hyphens, underscores")
    return Asked(peer, found[1], hashlib.sha256(encoded(request)).digest())


def once(desk: Desk, request: Asked, act: Callable[[], Answer]) -> Answer:
    """Act and keep the answer, or return the kept one. Raises `HttpProblem` 422 if the key is another request's."""
    known = _kept(desk).get(request.name)
    if known is not None and known.expires_at > desk.now:
        if known.digest != request.digest:
            detail = f"{request.key} was used with another request; a new order needs a new key"
            raise HttpProblem(KEY_USED_OTHERWISE, detail)
        return Answer(known.status, known.body, known.media_type, known.headers)
    _prune(desk)
    answer = act()
    _keep(desk, request, answer)
    return answer


def _kept(desk: Desk) -> Collection[Kept]:
    return desk.collection("requests", Kept)


def _expiries(desk: Desk) -> Collection[str]:
    """Names of records by when they expire."""
    return desk.collection("request-expiries", str)


def _keep(desk: Desk, request: Asked, answer: Answer) -> None:
    expires_at = desk.now + KEPT_US
    kept = Kept(request.digest, answer.status, answer.media_type, answer.headers, answer.body, expires_at)
    _kept(desk).put(request.name, kept)
    _expiries(desk).put(_expiry(expires_at, request.name), request.name)


def _prune(desk: Desk) -> None:
    for key, name in list(_expiries(desk).items(limit=PRUNED)):
        if key >= _expiry(desk.now + 1, ""):
            return
        _expiries(desk).delete(key)
        kept = _kept(desk).get(name)
        if kept is not None and kept.expires_at <= desk.now:  # else it was used again since
            _kept(desk).delete(name)


def _expiry(at: int, name: str) -> str:
    return f"{at:020}/{name}"
