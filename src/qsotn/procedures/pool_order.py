"""A batch for a pool of ready keys is ordered: the origin's own act, which begins a supply.

See `pool_supply` for what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from qsotn.domain import PartyId
from qsotn.errors import Refusal, UsageError
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Pool
from qsotn.keynetwork.pool import UNIT_BITS
from qsotn.keynetwork.provenance import Order, Statement, leg
from qsotn.keynetwork.relay import MAXIMUM_UNITS, Mode
from qsotn.messages import PoolRelay
from qsotn.parties import km_pool
from qsotn.parties.km import Km
from qsotn.parties.km_pool import Batch, BatchState
from qsotn.procedures.pool_hop import keep, open_hop, ranges
from qsotn.procedures.turn import Work

LIFETIME_US: Final = 60 * 1_000_000
"""How long a supply may take unless its caller says otherwise."""
LONGEST_LIFETIME_US: Final = 12 * 3600 * 1_000_000

Path = Sequence[PartyId]


def begin_pool_supply(
    km: Km,
    work: Work,
    pool: Pool,
    batch: str,
    first_number: int,
    units: int,
    *,
    paths: Sequence[Path] = (),
    mode: Mode = Mode.ONE_TIME_PAD,
    lifetime: int = LIFETIME_US,
) -> Batch:
    """Begin to supply units of a pool under the numbers from `first_number`; the same batch again changes nothing.

    `paths` are the key managers from origin to target, both included: none leaves the way to each hop's own routes,
    several must be node-disjoint and carry a share each. For a pool from a key manager to itself a path is the
    neighbour whose link gives the bits. `lifetime` in microseconds.

    Raises `UsageError` for a path or a pool that cannot be meant, `KeyShortage`, `Refusal` NO_ROUTE or KEY_REUSED.
    """
    ways = [tuple(path) for path in paths] or [()]
    orders = tuple(
        Order(
            batch=batch,
            share=share,
            shares=len(ways),
            origin=pool.origin,
            target=pool.target,
            series=pool.series,
            first=first_number,
            units=units,
            mode=mode,
            path=way,
            expires_at=km.desk.now + lifetime,
        )
        for share, way in enumerate(ways)
    )
    known = km_pool.batches(km.desk).get(batch)
    if known is not None:
        return _the_same(known, orders)
    if not 0 < lifetime <= LONGEST_LIFETIME_US:
        raise UsageError(f"a supply may take up to {LONGEST_LIFETIME_US // 1_000_000} s, not {lifetime / 1e6:g} s")
    _check_orders(km, orders)
    km_pool.sweep(km.desk)
    km_pool.take_numbers(km.desk, pool, first_number, units)
    begun = Batch(orders, BatchState.UNDER_WAY, km.desk.now)
    km_pool.begin_batch(km.desk, begun)
    for order in orders:
        _send_out(km, work, order)
    return begun


def _the_same(known: Batch, orders: Sequence[Order]) -> Batch:
    asked = tuple(msgspec.structs.replace(one, expires_at=known.orders[0].expires_at) for one in orders)
    if known.orders != asked:
        raise Refusal("KEY_REUSED", f"batch {orders[0].batch} was begun before, for other units or over other paths")
    return known


def _check_orders(km: Km, orders: Sequence[Order]) -> None:
    order = orders[0]
    if order.origin != km.desk.party:
        raise UsageError(f"{km.desk.party} cannot supply a pool whose origin is {order.origin}")
    if not 1 <= order.units <= MAXIMUM_UNITS or order.first < 0:
        raise UsageError(
            f"a batch has 1 to {MAXIMUM_UNITS} units from number 0 on, not {order.units} from {order.first}"
        )
    if len(orders) > 1 and order.origin == order.target:
        raise UsageError("a pool from a key manager to itself is supplied over one link, in one share")
    for path in (one.path for one in orders if one.path):
        _check_path(order, path)
    relays = [party for one in orders for party in one.path[1:-1]]
    if len(set(relays)) != len(relays) or (len(orders) > 1 and len({one.path for one in orders}) != len(orders)):
        raise UsageError(f"the paths of batch {order.batch} are not node-disjoint")


def _check_path(order: Order, path: Path) -> None:
    local = order.origin == order.target
    ends = path[0] == order.origin and (len(path) == 2 if local else path[-1] == order.target)
    if len(path) < 2 or not ends or len(set(path)) != len(path):
        way = ", ".join(path)
        raise UsageError(f"{way} is no path from {order.origin} to {order.target}")


def _send_out(km: Km, work: Work, order: Order) -> None:
    link, hop = _first_hop(km, order)
    drawn, bits = km.draw(link, order.units)
    pieces = ranges(drawn)
    statement = Statement(
        order=order,
        position=0,
        party=km.desk.party,
        next=hop,
        received=None,
        passed=leg(link, pieces, b""),
        possession=provenance.commitment(order, bits),
        previous=b"",
        at=km.desk.now,
    )
    chain = (provenance.sign(km.desk.identity, statement),)
    relay = PoolRelay(order.batch, order.share, order.mode, link, pieces, b"", chain)
    onward = open_hop(work, km, relay, hop, order.expires_at, work.traceparent)
    keep(km, statement, chain, link, bits, onward=onward)


def _first_hop(km: Km, order: Order) -> tuple[str, PartyId]:
    if order.path:
        return km.link_to(order.path[1]), order.path[1]
    if order.origin == order.target:
        link = km.link_with_bits(order.units, UNIT_BITS)
        return link, km.configuration.links[link]
    return km.link_towards(order.target)
