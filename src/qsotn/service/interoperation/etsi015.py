"""ETSI GS QKD 015 V2.1.1: a key manager as a software-defined QKD node, for the SDN controller of somebody else.

This is a view, not a control interface: the JSON encoding (RFC 7951) of the module `etsi-qkd-sdn-node`, revision
2022-01-30, with what this platform knows. A link is `PHYS` where two key managers share a quantum channel, and `VIRT`
where they share ready keys that were relayed. Rates are whole bits per second. What is not known is left out: a leaf
that stands there was measured or configured.

The published module allows `virt_…`, `phys_…` and `phys_perf` only where `qkdl_type` equals the bare text 'VIRT' or
'PHYS'. An identity of another module never does (RFC 7951, section 6.8), so that to the letter they are allowed
nowhere. They stand here where the standard means them to; a strict validator is to compare with the qualified names.

The module names everything by UUIDs. They are computed from the names of this platform (RFC 9562, version 5), so that
the views of two nodes, and those of today and tomorrow, agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from qsotn.domain import PartyId

MODULE, TYPES = "etsi-qkd-sdn-node", "etsi-qkd-node-types"
_UINT32: Final = 2**32 - 1
_THOUSANDTHS: Final = Decimal("0.001")


@dataclass(frozen=True, slots=True)
class ApplicationView:
    """Who takes keys with whom. Rates in bits per second; `links` are the links that provide the keys, by name."""

    name: str
    server: str
    """The URI of the entity that asks for new keys."""
    clients: tuple[str, ...]
    """The URIs of those that collect them."""
    remote: PartyId
    connected: bool | None
    """Whether it takes keys now, None where nobody can tell."""
    internal: bool = False
    priority: int = 0
    most_bps: float | None = None
    least_bps: float | None = None
    jitter_ms: int | None = None
    ttl_s: int | None = None
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkView:
    """One link. Rates in bits per second, `qber` a fraction; what is None is not known.

    `rate_bps` is an average over a recent time, `consumed_bps` what applications need or take of the link.

    `hops` are the key managers next on the way of a virtual link; a physical one has none.
    """

    name: str
    remote: PartyId
    available_bits: int
    generates: bool
    """Whether new key comes in at present."""
    virtual: bool = False
    rate_bps: float | None = None
    consumed_bps: float | None = None
    qber: float | None = None
    hops: tuple[PartyId, ...] = ()
    required_bps: float | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """One key manager with its applications and links."""

    party: PartyId
    version: str
    location: str
    operating: bool
    links: tuple[LinkView, ...]
    applications: tuple[ApplicationView, ...] = field(default=())


def identifier(kind: str, name: str) -> str:
    """Return the UUID of a node, link or application of this platform."""
    return str(uuid5(NAMESPACE_URL, f"urn:qsotn:{kind}:{name}"))


def document(node: NodeView) -> dict[str, Any]:
    """Return the instance data of one node."""
    interfaces = {link.name: number for number, link in enumerate(_physical(node), 1)}
    return {
        f"{MODULE}:qkd_node": {
            "qkdn_id": identifier("node", node.party),
            "qkdn_status": _type("OPERATING" if node.operating else "DOWN"),
            "qkdn_version": node.version,
            "qkdn_location_id": node.location,
            "qkdn_capabilities": {
                "link_stats_support": True,
                "application_stats_support": False,
                "key_relay_mode_enable": True,
            },
            "qkd_applications": {"qkd_app": [_application(node, one) for one in node.applications]},
            "qkd_interfaces": {"qkd_interface": [_interface(node, one, interfaces) for one in _physical(node)]},
            "qkd_links": {"qkd_link": [_link(node, one, interfaces) for one in node.links]},
        }
    }


def _physical(node: NodeView) -> Sequence[LinkView]:
    return sorted((link for link in node.links if not link.virtual), key=lambda link: link.name)


def _interface(node: NodeView, link: LinkView, interfaces: Mapping[str, int]) -> dict[str, Any]:
    working = node.operating and link.generates
    return {"qkdi_id": interfaces[link.name], "qkdi_status": _type("ENABLED" if working else "DISABLED")}


def _application(node: NodeView, one: ApplicationView) -> dict[str, Any]:
    status = None if one.connected is None else _type("ON" if one.connected else "DISCONNECTED")
    return {
        "app_id": identifier("application", one.name),
        **_known(app_status=status),
        "app_type": _type("INTERNAL" if one.internal else "CLIENT"),
        "server_app_id": one.server,
        "client_app_id": list(one.clients),
        "app_priority": one.priority,
        "app_qos": _known(
            max_bandwidth=_bps(one.most_bps),
            min_bandwidth=_bps(one.least_bps),
            jitter=one.jitter_ms,
            ttl=one.ttl_s,
        ),
        "backing_qkdl_id": [identifier("link", name) for name in one.links],
        "local_qkdn_id": identifier("node", node.party),
        "remote_qkdn_id": identifier("node", one.remote),
    }


def _link(node: NodeView, link: LinkView, interfaces: Mapping[str, int]) -> dict[str, Any]:
    users = [one.name for one in node.applications if link.name in one.links]
    own = {"qkdn_id": identifier("node", node.party)}
    interface = {} if link.virtual else {"qkdi_id": interfaces[link.name]}
    return {
        "qkdl_id": identifier("link", link.name),
        "qkdl_status": _type(_status(link)),
        "qkdl_enable": True,
        "qkdl_local": own | interface,
        "qkdl_remote": {"qkdn_id": identifier("node", link.remote)},
        "qkdl_type": _type("VIRT" if link.virtual else "PHYS"),
        "qkdl_applications": [identifier("application", name) for name in users],
        **_virtual(link),
        "qkdl_performance": _performance(link),
    }


def _virtual(link: LinkView) -> dict[str, Any]:
    if not link.virtual:
        return {}
    hops = [identifier("node", hop) for hop in link.hops]
    return _known(virt_next_hop=hops or None, virt_bandwidth=_bps(link.required_bps))


def _performance(link: LinkView) -> dict[str, Any]:
    consumed = link.consumed_bps or 0.0
    left = None if link.rate_bps is None else max(0.0, link.rate_bps - consumed)
    measured = _known(
        expected_consumption=_bps(link.consumed_bps),
        skr=_bps(link.rate_bps, down=True),
        eskr=_bps(left, down=True),
    )
    if link.qber is None or link.virtual:
        return measured
    return measured | {"phys_perf": [{"perf_type": _type("QBER"), "value": _decimal(link.qber)}]}


def _status(link: LinkView) -> str:
    """Say how a link stands: whether key comes in, and whether there is some."""
    if link.generates:
        return "ACTIVE"
    return "PASSIVE" if link.available_bits else "OFF"


def _bps(rate: float | None, *, down: bool = False) -> int | None:
    """Return whole bits per second: what is promised rounded down, what is needed up, both within 32 bits."""
    if rate is None:
        return None
    return min(math.floor(rate) if down else math.ceil(rate), _UINT32)


def _decimal(value: float) -> str:
    """Return a `decimal64` of three digits, which RFC 7951 (section 6.1) writes as a text."""
    return str(Decimal(str(value)).quantize(_THOUSANDTHS, ROUND_HALF_EVEN))


def _type(name: str) -> str:
    """Return an identity of the module of types (RFC 7951, section 6.8)."""
    return f"{TYPES}:{name}"


def _known(**leaves: Any) -> dict[str, Any]:
    return {name: value for name, value in leaves.items() if value is not None}
