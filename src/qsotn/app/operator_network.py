"""What an operator asks of the province's key network: its QKMP, and every key manager for the way of one key."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import msgspec

from qsotn.app.operator import Operator
from qsotn.app.operator_keys import Unreached
from qsotn.domain import PartyId, Role, role_of
from qsotn.errors import QsotnError, UsageError
from qsotn.parties.line_comparison import LineComparison
from qsotn.parties.network_admission import Admission
from qsotn.service.http.operations_admission import AdmissionQuestion
from qsotn.service.http.operations_km import KeyProvenance
from qsotn.service.http.operations_network import AlarmStatus, Network, NetworkPool, Outlook


class NetworkShown(msgspec.Struct, frozen=True):
    """The key network as the QKMP saw it last; `alarms` are those that last, the gravest and oldest first."""

    network: Network
    pools: tuple[NetworkPool, ...]
    lines: tuple[LineComparison, ...]
    alarms: tuple[AlarmStatus, ...]


class ProvenanceShown(msgspec.Struct, frozen=True):
    """How a key came to whoever knows it; `unreached` are key managers that could not be asked."""

    key_id: str
    told: tuple[KeyProvenance, ...]
    unreached: tuple[Unreached, ...]


def qkmp_of(operator: Operator) -> PartyId:
    """Return the province's QKMP. Raises `UsageError` for a province without one."""
    found = [party for party in operator.parties if role_of(party) is Role.QKMP]
    if not found:
        raise UsageError("the province has no QKMP; nobody watches its key network")
    return found[0]


async def key_network(operator: Operator) -> NetworkShown:
    """Return all the QKMP knows of the key network. Raises `LineError` or `Declined`."""
    qkmp = qkmp_of(operator)
    network, pools, lines, alarms = await asyncio.gather(
        operator.read(qkmp, "/network", Network),
        operator.every(qkmp, "/network/pools", NetworkPool),
        operator.every(qkmp, "/network/lines", LineComparison),
        operator.every(qkmp, "/network/alarms", AlarmStatus),
    )
    lasting = sorted((one for one in alarms if not one.cleared_at), key=_gravest_first)
    return NetworkShown(network, tuple(pools), tuple(lines), tuple(lasting))


def _gravest_first(alarm: AlarmStatus) -> tuple[int, int]:
    return list(type(alarm.severity)).index(alarm.severity), alarm.raised_at


async def key_forecast(operator: Operator) -> tuple[Outlook, ...]:
    """Return what becomes of every link and pool, what starves first at the top. Raises `LineError` or `Declined`."""
    found = await operator.every(qkmp_of(operator), "/network/forecast", Outlook)
    never = float("inf")
    by_end = sorted(found, key=lambda one: (never if one.starves_in_s is None else one.starves_in_s, one.what, one.km))
    return tuple(by_end)


async def admission(
    operator: Operator, origin: str, target: str, lines: int, rekey_interval_s: int, key_bits: int
) -> Admission:
    """Ask whether two cities can carry more lines; `jinan` and `km/jinan` are the same.

    Raises `Refusal` UNKNOWN_KM, NO_CITY or SAME_KM, `LineError` or `Declined`.
    """
    question = AdmissionQuestion(_km(origin), _km(target), lines, rekey_interval_s, key_bits)
    return await operator.ask(qkmp_of(operator), "/network/admission", question, Admission)


def _km(name: str) -> PartyId:
    return PartyId(name if name.startswith(f"{Role.KM}/") else f"{Role.KM}/{name}")


async def key_provenance(operator: Operator, key_id: str) -> ProvenanceShown:
    """Ask every key manager how a key came to it, all at once; who cannot be asked is named."""
    kms = [party for party in operator.parties if role_of(party) is Role.KM]
    answers = await asyncio.gather(*(_way_of(operator, km, key_id) for km in kms))
    told = tuple(one for one in answers if isinstance(one, KeyProvenance))
    return ProvenanceShown(key_id, told, tuple(one for one in answers if isinstance(one, Unreached)))


async def _way_of(operator: Operator, km: PartyId, key_id: str) -> KeyProvenance | Unreached | None:
    try:
        return await operator.find(km, f"/keys/{quote(key_id, safe='')}/provenance", KeyProvenance)
    except QsotnError as error:
        return Unreached(km, str(error))
