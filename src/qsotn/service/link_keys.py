"""A key manager's side of its QKD links: what the modules at its end ask of it and bring to it (ITU-T's Kq).

Each end of a link keeps a pool of one-time authentication keys. Before an exchange both ends burn the same one,
durably, so that a crash in the middle costs a key and never uses one twice; the key that a block withholds refills the
pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from qsotn.domain import Secret
from qsotn.errors import KeyReuse, KeyShortage, Refusal
from qsotn.parties.desk import Collection, Desk
from qsotn.parties.km import Km
from qsotn.parties.link_light import note_light
from qsotn.parties.link_totals import totals
from qsotn.procedures import key_supply
from qsotn.procedures.turn import Work
from qsotn.quantum.ledger import BlockLedger

POOL_DEPTH: Final = 32
"""One-time authentication keys that two ends share when a link is installed."""
AUTHENTICATION_BYTES: Final = 64


class LinkStatus(msgspec.Struct, frozen=True):
    """What the modules of a link need to know of this end."""

    link: str
    available_bits: int
    """What this end may still allocate."""
    last_exchange: int
    keys: tuple[int, ...]
    """The exchanges for which this end has an authentication key; none before the first keys are here."""


def status(km: Km, link: str) -> LinkStatus:
    """Return how this end of a link stands."""
    numbers = tuple(int(place.rpartition("/")[2]) for place, _ in _pool(km.desk).items(f"{link}/"))
    return LinkStatus(link, km.available_bits(link), last_exchange(km, link), numbers)


def wants_first_keys(ends: Sequence[LinkStatus]) -> bool:
    """Whether a link is to be given its first keys: both ends anew, if one of them has none and no exchange began."""
    return not all(end.keys for end in ends) and not any(end.last_exchange for end in ends)


def next_exchange(ends: Sequence[LinkStatus]) -> int:
    """Return the number of the next exchange: the first, after all that began, that both ends have a key for.

    A block that failed withheld no key, so there are gaps. Raises `KeyShortage` if no such number is left.
    """
    began = max(end.last_exchange for end in ends)
    common = set.intersection(*(set(end.keys) for end in ends))
    number = min((number for number in common if number > began), default=0)
    if not number:
        raise KeyShortage(f"the ends of {ends[0].link} share no authentication key any more; install the link anew")
    return number


def install(km: Km, link: str, keys: Sequence[Secret]) -> None:
    """Keep the first authentication keys, as an installer brings them in a sealed envelope.

    Until the first exchange, newer ones take their place: if only one end got the last ones, both are given others.
    From then on this changes nothing.
    """
    if last_exchange(km, link):
        return
    for number, key in enumerate(keys, 1):
        _keep(km.desk, link, number, key)


def last_exchange(km: Km, link: str) -> int:
    """Return the number of the newest exchange that began at this end."""
    return _exchanges(km.desk).get(link) or 0


def begin_exchange(km: Km, link: str, number: int) -> Secret:
    """Take the authentication key of one exchange out of the pool for good, before the exchange it will serve.

    Keys of exchanges that were passed over go with it: they will never serve.
    Raises `Refusal` REPLAYED for a number that is not new, `KeyShortage` if there is no such key.
    """
    if number <= last_exchange(km, link):
        raise Refusal("REPLAYED", f"exchange {number} of {link} is not after {last_exchange(km, link)}")
    place = _place(link, number)
    wrapped = _pool(km.desk).get(place)
    if wrapped is None:
        raise KeyShortage(f"{km.desk.party} has no authentication key {number} for {link}; install the link anew")
    for passed in [key for key, _ in _pool(km.desk).items(f"{link}/") if key <= place]:
        _pool(km.desk).delete(passed)
    _exchanges(km.desk).put(link, number)
    return Secret(km.desk.vault.unwrap(wrapped, place.encode()).reveal())


def deposit(km: Km, work: Work, link: str, number: int, block: Secret, ledger: BlockLedger, withheld: Secret) -> None:
    """Take this end's copy of a distilled block, and the key it withheld for a later exchange.

    The end whose name sorts first tells the other, and both compare before either allocates. The same copy again
    changes nothing: whoever brings it may not have heard that it is here. Raises `Refusal` REPLAYED for a number under
    which another copy came, or that was written off since, NOT_BEGUN for one whose exchange did not begin here,
    PASSED_OVER for one after which another exchange began: the far end may have been told that it never came.
    """
    if number > last_exchange(km, link):
        raise Refusal("NOT_BEGUN", f"exchange {number} of {link} has not begun at {km.desk.party}")
    if km.is_passed_over(link, number):
        raise Refusal("PASSED_OVER", f"a later exchange of {link} than {number} has begun at {km.desk.party}")
    try:
        if km.has_block(link, number) and km.holds(link, number, block):
            return
        km.deposit(link, number, block, msgspec.to_builtins(ledger))
    except KeyReuse as error:
        raise Refusal("REPLAYED", str(error)) from error
    _keep(work.desk, link, number + POOL_DEPTH, withheld)
    if ledger.pulses:  # of others' bits nothing is known (`interoperation.link_feed`)
        note_light(work.desk, link, number, ledger.error_rate, distils=True)
    if km.desk.party < km.configuration.links[link]:
        key_supply.announce(km, work, link, number)


def measured(km: Km, link: str, error_rate: float | None, *, distils: bool) -> None:
    """Note what the modules measured of the light, beside any block: `error_rate` is None where too little arrived.

    `distils` is whether they believe that keys come of it.
    """
    number = max(last_exchange(km, link), totals(km, link).number)
    note_light(km.desk, link, number, error_rate, distils=distils)


def _pool(desk: Desk) -> Collection[bytes]:
    return desk.collection("link-authentication", bytes)


def _exchanges(desk: Desk) -> Collection[Any]:
    return desk.collection("link-exchanges", int)


def _keep(desk: Desk, link: str, number: int, key: Secret) -> None:
    place = _place(link, number)
    _pool(desk).put(place, desk.vault.wrap(key, place.encode()))


def _place(link: str, number: int) -> str:
    return f"{link}/{number:08}"
