"""What stands in the `service.toml` of each party of a province, and of its twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from qsotn.app.addresses import Addresses, ServiceAddress
from qsotn.app.plan import Delivery, Plan
from qsotn.app.plan_border import Border
from qsotn.domain import PartyId, Role, role_of
from qsotn.service.config import SQLITE, TlsSection
from qsotn.service.toml_file import write_toml

TLS_FILES: Final = {
    "certificate": "transport.pem",
    "key": "transport.key",
    "operator_root": "operator.pem",
    "manufacturer_root": "manufacturer.pem",
    "operator_list": "operator.crl",
    "manufacturer_list": "manufacturer.crl",
}
"""The files of TLS in the folder of whoever has a transport certificate, by their key in `service.toml`."""
SHARED_FILES: Final = tuple(TLS_FILES[key] for key in tuple(TLS_FILES)[2:])
"""Those that are the same for everybody: roots and revocation lists, as the authority writes them."""
_HEADING: Final = (
    "The configuration of {who}, written when the province {province} was made.\nPaths are relative to this file."
)


def service_toml(plan: Plan, addresses: Addresses, own: ServiceAddress) -> str:
    """Return the configuration of one process of one party."""
    party, role = own.party, role_of(own.party)
    document: dict[str, Any] = {"party": party, "state": "."}
    if role in (Role.CPE, Role.QSSP):
        document["courier"] = plan.pmp
    document["store"] = {"url": store_url(plan, party)}
    document["listen"] = {"address": own.address, "monitoring": own.monitoring}
    document["tls"] = _tls("")
    document["peers"] = _urls(plan.correspondents(party), addresses)
    document["limits"] = {"waiting": 1024}
    document["log"] = {"level": "info", "format": "text"}
    document["telemetry"] = {"otlp": ""}
    if role is Role.KM:
        document["links"] = plan.neighbours(party)
    if own.delivery:
        document["delivery"] = _delivery(plan, own)
        document["network"] = {name: list(ends) for name, ends in plan.links.items()}
        document["sae"] = [{"id": sae, "km": km, **_class(plan, sae)} for sae, km in _saes(plan, party)]
    if own.streams:
        document["streams"] = {"address": own.streams}
    if own.border and plan.border is not None:
        document["border"] = _border(plan.border, own)
    if party in addresses.lines:
        document["line"] = _line(plan, addresses, party)
    return write_toml(document, _HEADING.format(who=party, province=plan.name))


def twin_toml(plan: Plan, addresses: Addresses) -> str:
    """Return the configuration of the twin: the QKD modules of every link."""
    links = [
        {"name": name, "ends": list(ends), "tls": _tls(f"{link_folder(name)}/")} for name, ends in plan.links.items()
    ]
    document = {
        "state": ".",
        "listen": {"monitoring": addresses.twin_monitoring},
        "keys": {"fill_bits": plan.keys.fill_bits},
        "peers": _urls(plan.kms, addresses),
        "log": {"level": "info", "format": "text"},
        "link": links,
    }
    return write_toml(document, _HEADING.format(who="the QKD twin", province=plan.name))


def tls_section(folder: Path) -> TlsSection:
    """Return the files of TLS in a folder that has them."""
    return TlsSection(**{key: folder / name for key, name in TLS_FILES.items()})


def link_folder(link: str) -> str:
    """Return the name of the folder with the certificate of a link's modules, in the twin's folder."""
    return f"{Role.QKD}-{link}"


def store_url(plan: Plan, party: PartyId) -> str:
    """Return where one party's store is. A device keeps its own; each platform party has a database of its own."""
    if role_of(party) is Role.CPE:
        return SQLITE
    return plan.store.url.replace("{party}", party.replace("/", "_").replace("-", "_"))


def _tls(folder: str) -> Mapping[str, Any]:
    return {key: folder + name for key, name in TLS_FILES.items()}


def _urls(parties: tuple[PartyId, ...], addresses: Addresses) -> dict[str, list[str]]:
    return {party: list(addresses.urls(party)) for party in parties}


def _supplied(delivery: Delivery) -> dict[str, Any]:
    return {"ready_keys": delivery.ready_keys, "mode": delivery.mode, "shares": delivery.shares}


def _delivery(plan: Plan, own: ServiceAddress) -> dict[str, Any]:
    delivery = plan.delivery
    classes = {"class": [msgspec.structs.asdict(one) for one in delivery.classes]} if delivery.classes else {}
    return {"address": own.delivery, "tls": delivery.tls, **delivery.files, **_supplied(delivery), **classes}


def _saes(plan: Plan, party: PartyId) -> Iterator[tuple[str, PartyId]]:
    """Yield the SAEs that a key manager is told of; the one at the border knows those of others by their operator."""
    yield from plan.sae_homes.items()
    if plan.border is not None and plan.border_km is not None and party != plan.border_km:
        yield from ((sae, plan.border_km) for sae in plan.border.saes)


def _class(plan: Plan, sae: str) -> dict[str, str]:
    named = next((one.service_class for one in plan.saes if one.name == sae), "")
    return {"class": named} if named else {}


def _border(border: Border, own: ServiceAddress) -> dict[str, Any]:
    operators = [{"name": one.name, "url": one.url, "saes": list(one.saes)} for one in border.operators]
    return {"address": own.border, "own_url": border.own_url, **border.files, "operator": operators}


def _line(plan: Plan, addresses: Addresses, cpe: PartyId) -> dict[str, str]:
    far = next(other for ends in plan.lines for one, other in (ends, ends[::-1]) if one == cpe)
    own = addresses.lines[cpe]
    return {"local": own.local, "remote": addresses.lines[far].local, "client_port": own.client}
