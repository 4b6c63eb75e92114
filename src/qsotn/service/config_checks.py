"""What can be wrong with addresses, URLs and parties in a configuration: each complaint says where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from qsotn.crypto.certificates import checked_party
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import UsageError

SERVED: Final = (Role.POMP, Role.PMP, Role.QSSP, Role.KM, Role.QKMP, Role.CPE)
_LARGEST_PORT: Final = 65_535


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, or of `[host]:port` for IPv6. Raises `UsageError`."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not colon or not bare or (":" in bare and bare == host):
        raise UsageError(f'{address!r} is no address: expected "host:port", for example "127.0.0.1:7401"')
    if not port.isdecimal() or not 0 < int(port) <= _LARGEST_PORT:
        raise UsageError(f"{address!r} has no port: expected 1 to {_LARGEST_PORT} behind the last colon")
    return bare, int(port)


def of_party(where: str, party: PartyId, roles: tuple[Role, ...]) -> Iterator[str]:
    """Complain about what is no party of these roles."""
    try:
        role = role_of(checked_party(party))
    except UsageError as error:
        yield f"{where}: {error}"
        return
    if role not in roles:
        yield f"{where}: {party!r} has role {role}; expected one of {', '.join(roles)}"


def of_address(where: str, address: str) -> Iterator[str]:
    """Complain about what is no `host:port`."""
    try:
        split_address(address)
    except UsageError as error:
        yield f"{where}: {error}"


def of_monitoring(address: str) -> Iterator[str]:
    """Complain about a monitoring address that is neither empty nor one."""
    if address:
        yield from of_address("[listen] monitoring", address)


def of_url(where: str, url: str) -> Iterator[str]:
    """Complain about what is no `https://host:port`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "https" or not parts.netloc or parts.path not in ("", "/"):
        yield f'{where}: {url!r} is no URL of a service; expected "https://host:port"'
    else:
        yield from of_address(where, parts.netloc)


def of_peers(peers: Mapping[PartyId, tuple[str, ...]]) -> Iterator[str]:
    """Complain about parties that are not served, and about their URLs."""
    for party, urls in peers.items():
        yield from of_party("[peers]", party, SERVED)
        if not urls:
            yield f"[peers] {party}: the list is empty; name at least one URL, or leave the party out"
        for url in urls:
            yield from of_url(f"[peers] {party}", url)
