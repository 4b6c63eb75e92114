"""What a key manager's `service.toml` says of keys for SAEs, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from qsotn.domain import PartyId

MOST_BITS: Final = 196_608
"""Of the keys of one request together: they fit, sealed, into one assignment for a further key manager."""
MOST_KEYS: Final = 512
MOST_SLAVES: Final = 64
MOST_SHARES: Final = 4
LONGEST_SAE_ID: Final = 255
MOST_READY_KEYS: Final = 1_000_000
LONGEST_CLASS_NAME: Final = 40
LOW_PARTS: Final = 2
"""A pool is low below one of so many parts of what it holds when it is full: it is refilled well above."""


class ClassSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class of SAEs, and the percent of what arrives in a pool that is its own."""

    name: str
    guaranteed_percent: int


class DeliverySection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys for SAEs (ETSI GS QKD 014): `host:port` of the listener, its TLS, and what an SAE may ask for.

    `tls = "post-quantum"` is mutual TLS with certificates of the province, as everywhere. `tls = "standard"` is
    ordinary TLS 1.2 or later, for SAEs of others: `certificate` and `key` are the server's, `client_ca` is whose
    certificates SAEs show, `client_list` has a revocation list of each of these CAs; PEM files. `ready_keys` is how
    many units of 256 bits are kept ready towards each key manager. `mode` is how units cross a link, and `shares` over
    how many node-disjoint ways they are spread. `class` are the classes of SAEs, from the highest priority down;
    without any, all SAEs are of one. Sizes in bits.
    """

    address: str
    tls: Literal["post-quantum", "standard"] = "post-quantum"
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    client_list: Path | None = None
    ready_keys: int = 512
    mode: Literal["one-time-pad", "aes-wrapped"] = "one-time-pad"
    shares: int = 1
    key_size: int = 256
    smallest_key: int = 64
    largest_key: int = 1024
    most_keys: int = 128
    most_additional_slaves: int = 16
    classes: tuple[ClassSection, ...] = msgspec.field(name="class", default=())


class SaeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One SAE, the key manager at which it is, and its class: if it is not named, the lowest."""

    id: str
    km: PartyId
    service_class: str = msgspec.field(name="class", default="")


def delivery_complaints(delivery: DeliverySection, saes: Sequence[SaeSection]) -> Iterator[str]:
    """Yield what is wrong, each with its table and what would be right."""
    yield from _of_files(delivery)
    yield from _of_sizes(delivery)
    yield from _of_numbers(delivery)
    yield from _of_ids(saes)
    yield from class_complaints(delivery.classes, delivery.ready_keys)
    named = ((f"[[sae]] number {number}", sae.service_class) for number, sae in enumerate(saes, 1))
    yield from classed_complaints(delivery.classes, named)


def _of_files(delivery: DeliverySection) -> Iterator[str]:
    files = {"certificate": delivery.certificate, "key": delivery.key, "client_ca": delivery.client_ca}
    for key, path in files.items():
        if path is None and delivery.tls == "standard":
            yield f'[delivery] {key}: with tls = "standard", name a PEM file'
    for key, path in {**files, "client_list": delivery.client_list}.items():
        if path is not None and delivery.tls != "standard":
            yield f'[delivery] {key}: with tls = "{delivery.tls}", leave it out; the files of [tls] are used'


def _of_sizes(delivery: DeliverySection) -> Iterator[str]:
    sizes = (delivery.smallest_key, delivery.key_size, delivery.largest_key)
    if not 8 <= sizes[0] <= sizes[1] <= sizes[2] or any(size % 8 for size in sizes):
        yield (
            f"[delivery] smallest_key, key_size, largest_key: {', '.join(map(str, sizes))} do not go together; each is "
            "a multiple of 8, and none is larger than the next"
        )
    if delivery.most_keys * delivery.largest_key > MOST_BITS:
        yield (
            f"[delivery] most_keys, largest_key: {delivery.most_keys} keys of {delivery.largest_key} bits are too many "
            f"for one request; there may be {MOST_BITS} bits together"
        )


def _of_numbers(delivery: DeliverySection) -> Iterator[str]:
    for key, given, lowest, highest in (
        ("ready_keys", delivery.ready_keys, 1, MOST_READY_KEYS),
        ("most_keys", delivery.most_keys, 1, MOST_KEYS),
        ("shares", delivery.shares, 1, MOST_SHARES),
        ("most_additional_slaves", delivery.most_additional_slaves, 0, MOST_SLAVES - 1),
    ):
        if not lowest <= given <= highest:
            yield f"[delivery] {key}: {given} is out of range; there may be {lowest} to {highest}"


def _of_ids(saes: Sequence[SaeSection]) -> Iterator[str]:
    seen: set[str] = set()
    for number, sae in enumerate(saes, 1):
        where = f"[[sae]] number {number}, id"
        yield from id_complaints(where, sae.id)
        if sae.id in seen:
            yield f"{where}: {sae.id!r} stands there twice; an SAE is at one key manager"
        seen.add(sae.id)


def id_complaints(where: str, name: str) -> Iterator[str]:
    """Complain about what cannot be the ID of an SAE."""
    if not 1 <= len(name) <= LONGEST_SAE_ID or not name.isprintable():
        yield f"{where}: {name!r} is no ID; an ID is 1 to {LONGEST_SAE_ID} printable characters"


def low_mark(ready_keys: int) -> int:
    """Return below how many units a pool is low that holds `ready_keys` when it is full."""
    return ready_keys // LOW_PARTS


def class_complaints(classes: Sequence[ClassSection], ready_keys: int) -> Iterator[str]:
    """Complain about classes that cannot be served out of pools of so many units."""
    seen: set[str] = set()
    for number, one in enumerate(classes, 1):
        where, percent = f"[[delivery.class]] number {number}", one.guaranteed_percent
        if not 1 <= len(one.name) <= LONGEST_CLASS_NAME or not one.name.isprintable():
            yield f"{where}, name: {one.name!r} is no name; a name is 1 to {LONGEST_CLASS_NAME} printable characters"
        if one.name in seen:
            yield f"{where}, name: {one.name!r} stands there twice; give each class its own"
        seen.add(one.name)
        if not 0 <= percent <= 100:
            yield f"{where}, guaranteed_percent: {percent} is no percent; expected 0 to 100"
        elif percent and not low_mark(ready_keys) * percent // 100:
            yield (
                f"{where}, guaranteed_percent: of half a pool of {ready_keys} units, {percent} % is less than one; "
                "raise it or ready_keys, or guarantee 0"
            )
    total = sum(one.guaranteed_percent for one in classes)
    if total > 100:
        yield f"[[delivery.class]] guaranteed_percent: they are {total} together; expected at most 100"


def classed_complaints(classes: Sequence[ClassSection], named: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Complain about SAEs, each by its table, that name a class which there is not."""
    known = [one.name for one in classes]
    for where, name in named:
        if name and name not in known:
            there = f"there are {', '.join(known)}" if known else "there is no [[delivery.class]]"
            yield f"{where}, class: there is no class {name!r}; {there}"
