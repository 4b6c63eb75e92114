"""Client of ETSI GS QKD 014 V1.1.1: keys from the key manager of somebody else.

It trusts a key manager with keys and with nothing besides: an answer that is not exactly what was asked for (another
number of keys, another size, one ID twice, an empty key, one key under two IDs) is no answer, and none of its keys is
used. The bytes of an answer pass through libraries that cannot erase them; what the caller gets is a `Secret`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self, TypeVar
from uuid import UUID

import aiohttp
import msgspec
from yarl import URL

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.adapters.transport.http import Unavailable
from qsotn.domain import KeyId, Secret
from qsotn.errors import LineError, MalformedMessage, Refusal, WrongParty
from qsotn.keynetwork.delivery import ReadyKey

CONNECT_S, ANSWER_S = 5.0, 15.0
LARGEST_ANSWER: Final = 4 * 1024 * 1024
_LONGEST_RETRY_S: Final = 3600.0

T = TypeVar("T")


class Etsi014Client:
    """One SAE at one key manager. Use it within one event loop, as an asynchronous context manager.

    Every method raises `Refusal` KEYS_NOT_FOUND or BAD_REQUEST for a 400, `WrongParty` for a 401, `Unavailable` (a
    `LineError`) for a 503, `LineError` where no answer came, and `MalformedMessage` for an answer that is none.
    """

    def __init__(self, url: str, context: Callable[[], ssl.SSLContext]) -> None:
        """`url` is up to the host and port; `context` has the certificate of this SAE."""
        self._url = url.rstrip("/")
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context())
        timeout = aiohttp.ClientTimeout(total=ANSWER_S, connect=CONNECT_S)
        jar = aiohttp.DummyCookieJar()
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=jar)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def status(self, slave: str) -> form.Status:
        """Ask what may be asked for on behalf of a slave SAE (5.2)."""
        status = _read(_STATUS, await self._ask("GET", form.path(slave, "status"), None))
        if status.slave_sae_id != slave:
            raise MalformedMessage(f"the status is about {status.slave_sae_id!r}: {slave!r} was asked about")
        if status.stored_key_count > status.max_key_count:
            raise MalformedMessage(f"{status.stored_key_count} keys are stored, of at most {status.max_key_count}")
        if not status.min_key_size <= status.key_size <= status.max_key_size:
            raise MalformedMessage(f"the key size {status.key_size} is outside of the sizes offered")
        return status

    async def enc_keys(
        self, slave: str, number: int, size: int, additional: Sequence[str] = ()
    ) -> tuple[ReadyKey, ...]:
        """Ask for new keys of `size` bits, which this SAE shares with the slave SAEs (5.3)."""
        request = form.KeyRequest(number, size, tuple(additional) or None)
        answer = await self._ask("POST", form.path(slave, "enc_keys"), msgspec.json.encode(request))
        keys = _keys(answer)
        if len(keys) != number:
            raise MalformedMessage(f"{len(keys)} keys came, {number} were asked for")
        _check_sizes(keys, size)
        return keys

    async def dec_keys(self, master: str, key_ids: Sequence[KeyId], size: int) -> tuple[ReadyKey, ...]:
        """Ask for the keys of `size` bits that a master SAE has shared with this one, by their IDs, in their order."""
        request = form.KeyIdentifiers(tuple(form.KeyIdentifier(key_id) for key_id in key_ids))
        answer = await self._ask("POST", form.path(master, "dec_keys"), msgspec.json.encode(request))
        found = {ready.key_id: ready for ready in _keys(answer)}
        wanted = [KeyId(key_id.lower()) for key_id in key_ids]
        if set(found) != set(wanted):
            raise MalformedMessage("other keys came than those that were asked for")
        _check_sizes(found.values(), size)
        return tuple(found[key_id] for key_id in wanted)

    async def _ask(self, verb: str, path: str, body: bytes | None) -> bytes:
        if self._session is None:
            raise LineError("this client is not open")
        headers = {} if body is None else {"Content-Type": form.JSON}
        try:
            url = URL(f"{self._url}{path}", encoded=True)
            async with self._session.request(verb, url, data=body, headers=headers, allow_redirects=False) as response:
                return _judged(response, await _whole(response))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise LineError(f"{self._url} gave no answer: {type(error).__name__} {error}") from error


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > LARGEST_ANSWER:
            raise MalformedMessage(f"the answer has more than {LARGEST_ANSWER} bytes")
    return bytes(answer)


def _judged(response: aiohttp.ClientResponse, body: bytes) -> bytes:
    match response.status:
        case 200:
            return body
        case 400:
            message = _message(body)
            code = "KEYS_NOT_FOUND" if message.casefold() == form.KEYS_NOT_FOUND.casefold() else "BAD_REQUEST"
            raise Refusal(code, message)
        case 401:
            raise WrongParty(f"the key manager does not let this SAE have that: {_message(body)}")
        case 503:
            raise Unavailable(f"the key manager cannot answer now: {_message(body)}", _retry_after(response))
        case other:
            raise MalformedMessage(f"the key manager answered {other}, which ETSI GS QKD 014 does not have")


def _message(body: bytes) -> str:
    try:
        return _ERROR.decode(body).message[:400]
    except msgspec.DecodeError:
        return "no message in the standard's form"


def _retry_after(response: aiohttp.ClientResponse) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_RETRY_S) if value.isascii() and value.isdigit() else 1.0


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        # Not the library's words nor their cause: they may quote what came, and a key may have come.
        raise MalformedMessage("the answer is not of the standard's form") from None


def _keys(body: bytes) -> tuple[ReadyKey, ...]:
    came = _read(_CONTAINER, body).keys
    if not all(one.key for one in came):
        raise MalformedMessage("an empty key came")
    if len({one.key_id.lower() for one in came}) != len(came):
        raise MalformedMessage("one key ID came twice")
    if len({one.key for one in came}) != len(came):
        raise MalformedMessage("one key came under two IDs")
    return tuple(ReadyKey(_key_id(one.key_id), Secret(one.key)) for one in came)


def _key_id(text: str) -> KeyId:
    try:
        value = str(UUID(text))
    except ValueError:
        value = ""
    if value != text.lower():
        raise MalformedMessage(f"the key ID {text[:60]!r} is no UUID")
    return KeyId(value)


def _check_sizes(keys: Iterable[ReadyKey], size: int) -> None:
    for ready in keys:
        if len(ready.key) * 8 != size:
            raise MalformedMessage(f"key {ready.key_id} has {len(ready.key) * 8} bits: expected {size}")


_STATUS: Final = msgspec.json.Decoder(form.Status)
_CONTAINER: Final = msgspec.json.Decoder(form.KeyContainer)
_ERROR: Final = msgspec.json.Decoder(form.Error)
