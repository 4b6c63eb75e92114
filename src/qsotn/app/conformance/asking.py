"""How a foreign key manager is asked: each SAE over connections of its own, anything that comes taken as it is."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import aiohttp
import msgspec
from yarl import URL

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.app.conformance.report import Fails, Skips
from qsotn.domain import KeyId

PATIENCE_S: Final = 20.0
LARGEST_ANSWER: Final = 4 * 1024 * 1024
OK, BAD_REQUEST, UNAUTHORIZED, UNAVAILABLE = 200, 400, 401, 503


@dataclass(frozen=True)
class Reply:
    """An answer as it came."""

    status: int
    content_type: str
    body: bytes = field(repr=False)

    @property
    def said(self) -> str:
        """The status, and the message of an error, for the report; never the body, which may hold keys."""
        message = self.message
        return f"{self.status}" if message is None else f"{self.status} {message[:160]!r}"

    @property
    def message(self) -> str | None:
        """The message of an error in the standard's form (6.5), if this is one."""
        if self.status == OK:
            return None
        try:
            return _ERROR.decode(self.body).message
        except msgspec.DecodeError:
            return None

    def expect(self, *statuses: int) -> Self:
        """Return itself; raises `Fails` for another status, `Skips` if keys were to come and none are there now."""
        if self.status in statuses:
            return self
        if statuses == (OK,) and self.status == UNAVAILABLE:
            raise Skips(f"the key manager answered {self.said}; try again when it has keys")
        raise Fails(self.said)


class Caller:
    """One SAE at its key manager. An asynchronous context manager."""

    def __init__(self, url: str, context: Callable[[], ssl.SSLContext]) -> None:
        self.url = url.rstrip("/")
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context())
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        jar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self, verb: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask anything at all; a body is sent as JSON. Raises `Fails` if no answer comes."""
        try:
            return await self.attempt(verb, path, body, headers)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Fails(f"no answer: {type(error).__name__} {error}"[:300]) from None

    async def attempt(
        self, verb: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """As `ask`, but raises what the network raises."""
        if self._session is None:
            raise RuntimeError("this caller is not open")
        fields = dict(headers or {}) if body is None else {"Content-Type": form.JSON, **(headers or {})}
        url = URL(self.url + path, encoded=True)
        async with self._session.request(verb, url, data=body, headers=fields, allow_redirects=False) as response:
            return Reply(response.status, response.content_type, await response.content.read(LARGEST_ANSWER))

    async def status(self, slave: str) -> Reply:
        """Ask for the status towards a slave SAE."""
        return await self.ask("GET", form.path(slave, "status"))

    async def enc_keys(self, slave: str, **members: object) -> Reply:
        """Ask for new keys by POST, with these members of a key request."""
        return await self.ask("POST", form.path(slave, "enc_keys"), msgspec.json.encode(members))

    async def dec_keys(self, master: str, *key_ids: str, headers: Mapping[str, str] | None = None) -> Reply:
        """Ask for keys by their IDs by POST."""
        body = msgspec.json.encode({"key_IDs": [{"key_ID": key_id} for key_id in key_ids]})
        return await self.ask("POST", form.path(master, "dec_keys"), body, headers)


def keys_of(reply: Reply) -> dict[KeyId, bytes]:
    """Return the keys of a key container (6.3) by ID. Raises `Fails` if it is none."""
    try:
        keys = _CONTAINER.decode(reply.body).keys
    except msgspec.DecodeError as error:
        raise Fails(f"no key container: {_blind(error)}") from None
    found = {KeyId(one.key_id): one.key for one in keys}
    if len(found) != len(keys):
        raise Fails("one key ID stands twice in the container")
    return found


def status_of(reply: Reply) -> form.Status:
    """Return a status (6.1). Raises `Fails` if it is none."""
    try:
        return _STATUS.decode(reply.body)
    except msgspec.DecodeError as error:
        raise Fails(f"no status of the standard's form: {error}") from None


def _blind(error: msgspec.DecodeError) -> str:
    """Say where a container is wrong; the library names places and types, and quotes no values."""
    return str(error) if isinstance(error, msgspec.ValidationError) else "not JSON"


_STATUS: Final = msgspec.json.Decoder(form.Status)
_CONTAINER: Final = msgspec.json.Decoder(form.KeyContainer)
_ERROR: Final = msgspec.json.Decoder(form.Error)
