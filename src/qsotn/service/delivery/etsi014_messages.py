"""ETSI GS QKD 014: from a request as it came to one that can be carried out, or to one clear error.

Whatever is wrong is found here before any key is touched: what is no JSON or not of the standard's form, what it
forbids by itself, and what exceeds the offer. Nothing is guessed or rounded: 1.0 is no integer, "1" is none, and a name
that stands twice in an object makes no request, because two readers would understand two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast
from urllib.parse import parse_qsl

import msgspec

from qsotn.adapters.keysource import etsi014_format as form
from qsotn.domain import KeyId
from qsotn.errors import MalformedMessage
from qsotn.service.delivery.offered import Offer

T = TypeVar("T")

LONGEST_MESSAGE: Final = 400
"""Characters: an error may quote what was sent."""
_MOST_PARAMETERS: Final = 2
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_INTEGER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class BadRequest(MalformedMessage):
    """A request that is not met as it stands (400). `details` are name/value pairs."""

    def __init__(self, message: str, details: tuple[Mapping[str, str], ...] = ()) -> None:
        super().__init__(message[:LONGEST_MESSAGE])
        self.details = details


def read_key_request(body: bytes) -> form.KeyRequest:
    """Read a key request (6.2); an empty body asks for the defaults. Raises `BadRequest`."""
    if not body:
        return _DEFAULTS
    request = _decoded(_KEY_REQUEST, body, _quotes_of_request)
    _check_request(request)
    return request


def read_key_query(query: str) -> form.KeyRequest:
    """Read the query of a GET for new keys (5.3): `number`, `size`, both or none. Raises `BadRequest`."""
    if not query:
        return _DEFAULTS
    given = _parameters(query, ("number", "size"))
    request = form.KeyRequest(_integer(given, "number"), _integer(given, "size"))
    _check_request(request)
    return request


def read_key_ids(body: bytes) -> tuple[KeyId, ...]:
    """Read the IDs of the keys that are asked for (6.4). Raises `BadRequest`."""
    named = [identifier.key_id.lower() for identifier in _decoded(_KEY_IDS, body, _quotes_of_ids).key_ids]
    if not all(map(_UUID.fullmatch, named)):
        for key_id in named:
            _check_uuid(key_id)
    if len(set(named)) != len(named):
        raise BadRequest("key_IDs names one key more than once")
    return tuple(cast("list[KeyId]", named))


def read_key_id_query(query: str) -> tuple[KeyId, ...]:
    """Read the query of a GET for one key (5.4): exactly one `key_ID`. Raises `BadRequest`."""
    given = _parameters(query, ("key_ID",))
    if "key_ID" not in given:
        raise BadRequest("key_ID is missing: a GET asks for exactly one key, ?key_ID=…")
    key_id = given["key_ID"].lower()
    _check_uuid(key_id)
    return (KeyId(key_id),)


def check_against(offer: Offer, number: int, size: int, additional: int) -> None:
    """Hold a request against what is on offer. Raises `BadRequest`."""
    if number > offer.most_keys_a_request:
        raise BadRequest(f"number is {number}, max_key_per_request {offer.most_keys_a_request}")
    if not offer.smallest_key <= size <= offer.largest_key:
        raise BadRequest(
            f"size is {size} bits, expected min_key_size {offer.smallest_key} to max_key_size {offer.largest_key}"
        )
    if additional > offer.most_additional_slaves:
        raise BadRequest(
            f"additional_slave_SAE_IDs names {additional} SAEs, max_SAE_ID_count is {offer.most_additional_slaves}"
        )


def check_slaves(master: str, slave: str, additional: tuple[str, ...]) -> tuple[str, ...]:
    """Return all slave SAEs, the one of the path first. Raises `BadRequest` for one named twice, and for the caller."""
    slaves = (slave, *additional)
    if master in slaves:
        raise BadRequest(f"{master} is the calling SAE itself: a slave SAE is another one")
    if len(set(slaves)) != len(slaves):
        raise BadRequest("the slave SAEs are not all different")
    return slaves


# --- JSON -----------------------------------------------------------------------------------------------------------


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes, quotes: Callable[[T], int]) -> T:
    """Decode a request; `quotes` says how many quotation marks one like it has at least."""
    try:
        value = decoder.decode(body)
        # A member that stands twice brings two marks or more of its own. Whatever has none to spare, as nearly every
        # request, is spared the slower reader that looks for one; extensions and escapes are not.
        if body.count(b'"') != quotes(value):
            _ONCE_EACH.decode(body.decode())
    except msgspec.ValidationError as error:
        raise BadRequest(f"the request is not of the standard's form: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadRequest(f"the request is no JSON in UTF-8: {error}") from None
    except RecursionError:
        raise BadRequest("the request is nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits, in an extension
        raise BadRequest(f"the request cannot be read: {error}") from None
    return value


def _once_each(members: list[tuple[str, Any]]) -> None:
    # msgspec takes the last of two members with one name and says nothing; RFC 8259 lets every reader differ.
    names = {name for name, _ in members}
    if len(names) != len(members):
        raise BadRequest("an object of the request has two members of one name")


def _quotes_of_ids(request: form.KeyIdentifiers) -> int:
    return 2 + 4 * len(request.key_ids)


def _quotes_of_request(request: form.KeyRequest) -> int:
    slaves = request.additional_slaves
    counted = (request.number is not None) + (request.size is not None) + (slaves is not None)
    return 2 * (counted + len(slaves or ()))


def _check_request(request: form.KeyRequest) -> None:
    if request.size is not None and request.size % 8:
        raise BadRequest(form.SIZE_NOT_A_MULTIPLE)
    unsupported = [name for parameter in request.extension_mandatory or () for name in parameter]
    if unsupported:
        details = [{"extension_mandatory_unsupported": f"{name[:80]} is not supported"} for name in unsupported[:8]]
        raise BadRequest(form.MANDATORY_NOT_SUPPORTED, tuple(details))


def _check_uuid(text: str) -> None:
    if not _UUID.fullmatch(text):
        raise BadRequest(f"key_ID {text[:60]!r} is no UUID, for example 550e8400-e29b-41d4-a716-446655440000")


# --- queries --------------------------------------------------------------------------------------------------------


def _parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, True, True, "utf-8", "strict", max_num_fields=_MOST_PARAMETERS)
    except ValueError as error:
        raise BadRequest(f"the query cannot be read: {error}; expected {_expected(known)}") from None
    given = dict(pairs)
    if len(given) != len(pairs):
        raise BadRequest(f"the query has one parameter twice; expected {_expected(known)}")
    unknown = [name for name in given if name not in known]
    if unknown:
        raise BadRequest(f"the query has {unknown[0][:60]!r}; expected {_expected(known)} (POST has the others)")
    return given


def _expected(known: tuple[str, ...]) -> str:
    return " and ".join(f"{name}=…" for name in known)


def _integer(given: Mapping[str, str], name: str) -> int | None:
    if name not in given:
        return None
    if not _INTEGER.fullmatch(given[name]) or not int(given[name]):
        raise BadRequest(f"{name} is {given[name][:40]!r}: expected an integer of at least 1")
    return int(given[name])


_KEY_REQUEST: Final = msgspec.json.Decoder(form.KeyRequest)
_KEY_IDS: Final = msgspec.json.Decoder(form.KeyIdentifiers)
_ONCE_EACH: Final = json.JSONDecoder(object_pairs_hook=_once_each)
_DEFAULTS: Final = form.KeyRequest()
