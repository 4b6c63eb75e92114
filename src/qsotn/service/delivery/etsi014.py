"""ETSI GS QKD 014 V1.1.1: keys for SAEs over a fast server of its own.

    GET       /api/v1/keys/{slave_SAE_ID}/status     5.2  what may be asked for
    GET POST  /api/v1/keys/{slave_SAE_ID}/enc_keys   5.3  new keys, for a master SAE
    GET POST  /api/v1/keys/{master_SAE_ID}/dec_keys  5.4  the same keys, for a slave SAE

Read the data formats first (`adapters.keysource.etsi014_format`), then how a request is judged (`etsi014_messages`),
who asks (`etsi014_identity`), and what an error becomes (`etsi014_errors`). HTTP is in `http_requests`,
`http_protocol` and `http_server`.

What always holds: who asks is what the certificate of the connection says, read once, and no header can add to it. A
request that is not in order is answered before anything is asked of the key manager. An answer with keys is sent only
after the key manager has said that what it did is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec
import structlog

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.errors import WrongParty
from qsotn.keynetwork.delivery import ReadyKey
from qsotn.service.delivery import etsi014_messages as messages
from qsotn.service.delivery.etsi014_counters import NO_METHOD, Observed, Repeats
from qsotn.service.delivery.etsi014_errors import UNAUTHORIZED, UNAVAILABLE, Failures, error_answer
from qsotn.service.delivery.etsi014_identity import Identify, Identity, identity_of
from qsotn.service.delivery.http_protocol import Answer, Limits, Request
from qsotn.service.delivery.http_server import HttpServer, serving
from qsotn.service.delivery.offered import KeyDelivery, Offer
from qsotn.service.delivery.throttled import Throttled

OFFER_KEPT_S: Final = 60.0
"""How long the bounds of an offer are relied on. They are configuration; how many keys are there is asked each time."""
LONGEST_PATH: Final = 1024
"""Bytes, of a path that is looked at."""
_MOST_OFFERS: Final = 4096
_STATUS, _ENC, _DEC = "status", "enc_keys", "dec_keys"
_ALLOWED: Final = {_STATUS: ("GET",), _ENC: ("GET", "POST"), _DEC: ("GET", "POST")}
_OK, _NOT_FOUND, _NOT_ALLOWED = 200, 404, 405

_log = structlog.get_logger("delivery")


@contextlib.asynccontextmanager
async def listen(
    delivery: KeyDelivery,
    listener: socket.socket,
    context: ssl.SSLContext,
    identify: Identify,
    *,
    observed: Observed | None = None,
    limits: Limits | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[HttpServer]:
    """Serve a key manager's keys on a listening socket; at the end, answers under way are sent before it closes.

    `context` asks for client certificates: of `adapters.tls`, or of `etsi014_identity.standard_server_context`.
    `clock` returns seconds since the epoch; an SAE whose certificate ends is an SAE no longer, connected or not.
    """
    interface = KeyInterface(delivery, identify, observed or _unheard, clock)
    async with serving(interface, listener, context, limits or Limits(), interface.holder) as server:
        yield server


def _unheard(_method: str, _status: int, _seconds: float, _repeated: bool) -> None:
    """Count nothing."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method of the standard, about one SAE."""

    method: str
    sae: str


class KeyInterface:
    """What every connection shares."""

    def __init__(
        self, delivery: KeyDelivery, identify: Identify, observed: Observed, clock: Callable[[], float]
    ) -> None:
        self.delivery, self.observed, self.clock = delivery, observed, clock
        self.failures, self.repeats = Failures(), Repeats()
        self._identify, self._throttled = identify, Throttled()
        self._offers: dict[tuple[str, str], tuple[float, Offer]] = {}

    def greet(self, transport: asyncio.BaseTransport) -> SaeSession:
        """Begin a connection; one of nobody we know is answered 401."""
        try:
            return SaeSession(self, identity_of(transport, self._identify), "")
        except WrongParty as error:
            self._throttled.tell(_log.warning, "a client is no SAE of this key manager", reason=str(error))
            return SaeSession(self, Identity("", 0.0), str(error))

    def holder(self, transport: asyncio.BaseTransport) -> str:
        """Return the SAE of a connection, however many certificates it has; all clients that are no SAE are one."""
        try:
            return identity_of(transport, self._identify).sae
        except WrongParty:  # which `greet` has told
            return ""

    def problem(self, status: int, message: str) -> Answer:
        """Put an error of HTTP itself into the standard's form."""
        self.observed(NO_METHOD, status, 0.0, False)
        return error_answer(status, message)

    async def bounds(self, master: str, slave: str) -> Offer:
        """Return what is on offer as it was within the last minute. Raises as `KeyDelivery.offer` does."""
        until, offer = self._offers.get((master, slave), (0.0, None))
        now = time.monotonic()
        if offer is None or now > until:
            offer = await self.delivery.offer(master, slave)
            if len(self._offers) >= _MOST_OFFERS:
                self._offers.clear()
            self._offers[master, slave] = (now + OFFER_KEPT_S, offer)
        return offer


class SaeSession:
    """One connection of one SAE; `refused` says why it is none, and is empty otherwise."""

    def __init__(self, interface: KeyInterface, identity: Identity, refused: str) -> None:
        self._interface, self._sae, self._until, self._refused = interface, identity.sae, identity.until, refused

    async def answer(self, request: Request) -> Answer:
        """Answer one request; it is counted whatever becomes of it."""
        begun = time.perf_counter()
        path = request.target.partition(b"?")[0]
        route = _route(path) if len(path) <= LONGEST_PATH else None
        method = NO_METHOD if route is None else route.method
        repeats = self._interface.repeats
        asked = (self._sae, request.target, request.body)
        repeated = method != _STATUS and repeats.seen(asked)
        answer = await self._answered(request, route)
        # Asked again after a failure of ours, or for keys that were asked for: a repetition. More new keys are none.
        if answer.status == UNAVAILABLE or method == _DEC:
            repeats.note(asked)
        self._interface.observed(method, answer.status, time.perf_counter() - begun, repeated)
        return answer

    async def _answered(self, request: Request, route: Route | None) -> Answer:
        if route is None:
            return error_answer(
                _NOT_FOUND, "there is no such path: expected /api/v1/keys/{SAE_ID}/status|enc_keys|dec_keys"
            )
        verb, allowed = request.method.decode(), _ALLOWED[route.method]
        if verb not in allowed:
            fields = f"Allow: {', '.join(allowed)}\r\n".encode()
            return error_answer(_NOT_ALLOWED, f"{route.method} takes {' or '.join(allowed)}", fields=fields)
        if self._refused or self._interface.clock() > self._until:
            message = self._refused or "the client certificate has expired"
            return msgspec.structs.replace(error_answer(UNAUTHORIZED, message), last=True)
        try:
            return Answer(_OK, await self._carried_out(request, route, verb))
        except Exception as error:  # noqa: BLE001 - every one is answered, and one that is no caller's fault is logged
            return self._interface.failures.answer(error, route.method)

    async def _carried_out(self, request: Request, route: Route, verb: str) -> bytes:
        query = request.target.partition(b"?")[2].decode("latin-1")
        _check_form(request, verb, query)
        if not route.sae:
            raise messages.BadRequest("the SAE ID of the path is empty, or not URL-encoded UTF-8")
        if route.method == _STATUS:
            return await self._status(route.sae, query)
        if route.method == _ENC:
            asked = messages.read_key_query(query) if verb == "GET" else messages.read_key_request(request.body)
            return await self._new_keys(route.sae, asked)
        key_ids = messages.read_key_id_query(query) if verb == "GET" else messages.read_key_ids(request.body)
        return _container(await self._interface.delivery.collect(self._sae, route.sae, key_ids))

    async def _status(self, slave: str, query: str) -> bytes:
        if query:
            raise messages.BadRequest("status takes no query")
        offer = await self._interface.delivery.offer(self._sae, slave)
        return msgspec.json.encode(_status(offer, self._sae, slave))

    async def _new_keys(self, slave: str, asked: form.KeyRequest) -> bytes:
        slaves = messages.check_slaves(self._sae, slave, asked.additional_slaves or ())
        offer = await self._interface.bounds(self._sae, slave)
        number, size = asked.number or 1, asked.size or offer.key_size
        messages.check_against(offer, number, size, len(slaves) - 1)
        return _container(await self._interface.delivery.reserve(self._sae, slaves, number, size))


@lru_cache(maxsize=1024)
def _route(path: bytes) -> Route | None:
    """Return the method that a path names, if it names one. An SAE ID that cannot be decoded is empty."""
    plain = path if path.startswith(b"/") else _absolute(path)
    parts = plain.split(b"/")
    if len(parts) != 6 or parts[:4] != [b"", b"api", b"v1", b"keys"]:
        return None
    method = parts[5].decode("ascii", "replace")
    return Route(method, _decoded(parts[4])) if method in _ALLOWED else None


def _absolute(target: bytes) -> bytes:
    """Return the path of a target in absolute form, which a server must take (RFC 9112, clause 3.2.2)."""
    try:
        return urlsplit(target).path
    except ValueError:
        return b""


def _decoded(sae: bytes) -> str:
    try:
        text = unquote(sae.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() else ""


def _check_form(request: Request, verb: str, query: str) -> None:
    if verb == "GET" and request.body:
        raise messages.BadRequest("a GET has no body: what it asks for stands in its query")
    if verb == "POST" and query:
        raise messages.BadRequest("a POST has no query: what it asks for stands in its body")
    kind = request.content_type.partition(b";")[0].strip().lower()
    if request.body and kind not in (b"", b"application/json"):
        shown = kind.decode("latin-1")[:60]
        raise messages.BadRequest(f"the content type is {shown!r}: expected {form.JSON}")


def _status(offer: Offer, master: str, slave: str) -> form.Status:
    return form.Status(
        source_kme_id=offer.source,
        target_kme_id=offer.target,
        master_sae_id=master,
        slave_sae_id=slave,
        key_size=offer.key_size,
        stored_key_count=min(offer.stored_keys, offer.most_stored_keys),
        max_key_count=offer.most_stored_keys,
        max_key_per_request=offer.most_keys_a_request,
        max_key_size=offer.largest_key,
        min_key_size=offer.smallest_key,
        max_sae_id_count=offer.most_additional_slaves,
    )


def _container(keys: Sequence[ReadyKey]) -> bytes:
    # As `form.KeyContainer`, whose making would take as long as all the rest.
    return _ENCODER.encode({"keys": [{"key_ID": ready.key_id, "key": ready.key.reveal()} for ready in keys]})


_ENCODER: Final = msgspec.json.Encoder()
