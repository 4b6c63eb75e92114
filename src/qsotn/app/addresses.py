"""Where each process of a province listens: ports counted up from the first, or free ones, chosen once and kept."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from qsotn.app.key_listeners import Kind, Process, key_listeners, ports_behind
from qsotn.app.plan import Plan
from qsotn.domain import PartyId, role_of
from qsotn.errors import UsageError
from qsotn.service.config import split_address

_FREE_PORTS: Final = range(10_000, 32_768)
_ATTEMPTS: Final = 1000


@dataclass(frozen=True)
class ServiceAddress:
    """One process of one party; replicas are numbered from 1. `host:port`.

    `delivery` is where a key manager serves SAEs, `streams` where it gives them streams of key, `border` where it
    listens for other operators, each empty where it does not.
    """

    party: PartyId
    replica: int
    address: str
    monitoring: str
    delivery: str = ""
    streams: str = ""
    border: str = ""


@dataclass(frozen=True)
class LineAddress:
    """One device's two ports of UDP, `host:port`: of the fibre, and of the client."""

    local: str
    client: str


@dataclass(frozen=True)
class Addresses:
    """Every address of a province."""

    services: tuple[ServiceAddress, ...]
    twin_monitoring: str
    lines: dict[PartyId, LineAddress]

    def urls(self, party: PartyId) -> tuple[str, ...]:
        """Where one party is reached, one URL for each replica."""
        return tuple(f"https://{one.address}" for one in self.services if one.party == party)


def assign(plan: Plan) -> Addresses:
    """Give every process its addresses. Raises `UsageError` for a port that is in use, or a host that is not here."""
    processes = [(party, number) for party in plan.parties for number in range(1, _replicas(plan, party) + 1)]
    devices = [cpe for line in plan.lines for cpe in line]
    kinds = [socket.SOCK_STREAM] * (2 * len(processes) + 1) + [socket.SOCK_DGRAM] * (2 * len(devices))
    with contextlib.ExitStack() as held:
        behind = [socket.SOCK_STREAM] * ports_behind(plan)
        ports = _ports(plan, held, plan.listen.first_port, [*kinds, *behind])
        listeners = _key_listeners(plan, held, ports[len(kinds) :])
    tcp, udp = ports[: 2 * len(processes) + 1], ports[2 * len(processes) + 1 : len(kinds)]
    host = _host(plan)
    own, monitoring = tcp[: len(processes)], tcp[len(processes) : -1]
    services = tuple(
        ServiceAddress(party, number, f"{host}:{port}", f"{host}:{watched}", **listeners.get((party, number), {}))
        for (party, number), port, watched in zip(processes, own, monitoring, strict=True)
    )
    lines = {
        cpe: LineAddress(f"{host}:{near}", f"{host}:{client}")
        for cpe, near, client in zip(devices, udp[::2], udp[1::2], strict=True)
    }
    return Addresses(services, f"{host}:{tcp[-1]}", lines)


def _key_listeners(plan: Plan, held: contextlib.ExitStack, behind: Sequence[int]) -> dict[Process, dict[Kind, str]]:
    """Return where each process has its further listeners; `behind` are the ports of those behind all others."""
    left, found = iter(behind), defaultdict[Process, dict[Kind, str]](dict)
    for one in key_listeners(plan):
        kinds = [socket.SOCK_STREAM] * len(one.processes)
        ports = [next(left) for _ in kinds] if one.first is None else _ports(plan, held, one.first, kinds)
        for process, port in zip(one.processes, ports, strict=True):
            found[process][one.kind] = f"{_host(plan)}:{port}"
    return found


def _host(plan: Plan) -> str:
    return f"[{plan.listen.host}]" if ":" in plan.listen.host else plan.listen.host


def _replicas(plan: Plan, party: PartyId) -> int:
    return int(msgspec.structs.asdict(plan.replicas).get(role_of(party), 1))


def _ports(plan: Plan, held: contextlib.ExitStack, first: int, kinds: Iterable[socket.SocketKind]) -> list[int]:
    """Return ports that nobody uses now, from the first up. Each is held until all are found: none is given twice."""
    host = plan.listen.host
    found = []
    for number, kind in enumerate(kinds):
        taken = _bound(host, first + number, kind) if first else _bound_anywhere(host, kind)
        found.append(int(held.enter_context(taken).getsockname()[1]))
    return found


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:
            # Connections of an earlier life, which linger on for a minute, are in nobody's way.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        if kind is socket.SOCK_STREAM:
            taken.listen()  # or the next one could be given the same port
    except OSError as error:
        taken.close()
        raise UsageError(
            f"port {port} of {host} cannot be used: {error.strerror or error}; stop who uses it, or choose another "
            "first_port or host in the province file (first_port = 0 takes free ports)"
        ) from error
    return taken


def _bound_anywhere(host: str, kind: socket.SocketKind) -> socket.socket:
    """Bind a free port, below those that Linux gives to outgoing connections, which could take it before its owner."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(UsageError):
            return _bound(host, _FREE_PORTS.start + secrets.randbelow(len(_FREE_PORTS)), kind)
    return _bound(host, 0, kind)


def check_free(addresses: Iterable[str]) -> None:
    """Raise `UsageError` for the first of these TCP addresses that somebody else listens on."""
    for address in addresses:
        _bound(*split_address(address), socket.SOCK_STREAM).close()
