"""The module `etsi-qkd-sdn-node`, revision 2022-01-30 (ETSI GS QKD 015 V2.1.1), as a table, and a check against it.

Each node of the tree under `qkd_node` with its type; the types are those of the module and of `etsi-qkd-node-types`.
The encoding is that of RFC 7951. The `when` conditions are taken as they are meant: see `etsi015`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

Check = Callable[[Any], bool]
Tree = dict[str, Any]

IDENTITIES = {
    "qkd-technology-types": {"CV-QKD", "DV-QKD", "DV-QKD-COW", "DV-QKD-2Ws"},
    "qkdn-status-types": {"NEW", "OPERATING", "DOWN", "FAILURE", "OUT"},
    "qkd-link-types": {"VIRT", "PHYS"},
    "qkd-role-types": {"TRANSMITTER", "RECEIVER", "TRANSCEIVER"},
    "qkd-app-types": {"CLIENT", "INTERNAL"},
    "phys-perf-types": {"QBER", "SNR"},
    "link-status-types": {"ACTIVE", "PASSIVE", "PENDING", "OFF"},
    "iface-status-types": {"ENABLED", "DISABLED", "FAILED"},
    "app-status-types": {"ON", "DISCONNECTED", "OUT-OF-TIME", "ZOMBIE"},
}


def identity(name: str) -> Check:
    allowed = {f"etsi-qkd-node-types:{one}" for one in IDENTITIES[name]}
    return lambda value: value in allowed


def matches(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def string(value: Any) -> bool:
    return isinstance(value, str)


def boolean(value: Any) -> bool:
    return isinstance(value, bool)


def uint32(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def uri(value: Any) -> bool:
    return isinstance(value, str) and bool(urlsplit(value).scheme) and value.isascii() and " " not in value


uuid = matches(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
decimal64_3 = matches(r"-?\d+\.\d{1,3}")
date_and_time = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


class Leaves(tuple[Check]):
    """A leaf-list."""


class Entries(tuple[str, Tree]):
    """A list: its key, and what an entry holds."""


NODE: Tree = {
    "qkdn_id": uuid,
    "qkdn_status": identity("qkdn-status-types"),
    "qkdn_version": string,
    "qkdn_location_id": string,
    "qkdn_capabilities": {
        "link_stats_support": boolean,
        "application_stats_support": boolean,
        "key_relay_mode_enable": boolean,
    },
    "qkd_applications": {
        "qkd_app": Entries(
            (
                "app_id",
                {
                    "app_id": uuid,
                    "app_status": identity("app-status-types"),
                    "app_type": identity("qkd-app-types"),
                    "server_app_id": uri,
                    "client_app_id": Leaves((uri,)),
                    "app_priority": uint32,
                    "creation_time": date_and_time,
                    "expiration_time": date_and_time,
                    "app_statistics": {
                        "statistics": Entries(
                            (
                                "end_time",
                                {"end_time": date_and_time, "start_time": date_and_time, "consumed_bits": uint32},
                            )
                        )
                    },
                    "app_qos": {
                        "max_bandwidth": uint32,
                        "min_bandwidth": uint32,
                        "jitter": uint32,
                        "ttl": uint32,
                        "clients_shared_path_enable": boolean,
                        "clients_shared_keys_required": boolean,
                    },
                    "backing_qkdl_id": Leaves((uuid,)),
                    "local_qkdn_id": uuid,
                    "remote_qkdn_id": uuid,
                },
            )
        )
    },
    "qkd_interfaces": {
        "qkd_interface": Entries(
            (
                "qkdi_id",
                {
                    "qkdi_id": uint32,
                    "qkdi_model": string,
                    "qkdi_type": identity("qkd-technology-types"),
                    "qkdi_att_point": {"device": string, "port": uint32},
                    "qkdi_capabilities": {
                        "role_support": identity("qkd-role-types"),
                        "wavelength_range": string,
                        "max_absorption": decimal64_3,
                    },
                    "qkdi_status": identity("iface-status-types"),
                },
            )
        )
    },
    "qkd_links": {
        "qkd_link": Entries(
            (
                "qkdl_id",
                {
                    "qkdl_id": uuid,
                    "qkdl_status": identity("link-status-types"),
                    "qkdl_enable": boolean,
                    "qkdl_local": {"qkdn_id": uuid, "qkdi_id": uint32},
                    "qkdl_remote": {"qkdn_id": uuid, "qkdi_id": uint32},
                    "qkdl_type": identity("qkd-link-types"),
                    "qkdl_applications": Leaves((uuid,)),
                    "virt_prev_hop": uuid,
                    "virt_next_hop": Leaves((uuid,)),
                    "virt_bandwidth": uint32,
                    "phys_channel_att": decimal64_3,
                    "phys_wavelength": matches(r"[1-9][0-9]{0,3}"),
                    "phys_qkd_role": identity("qkd-role-types"),
                    "qkdl_performance": {
                        "expected_consumption": uint32,
                        "skr": uint32,
                        "eskr": uint32,
                        "phys_perf": Entries(
                            ("perf_type", {"perf_type": identity("phys-perf-types"), "value": decimal64_3})
                        ),
                    },
                },
            )
        )
    },
}


def wrong(document: Any) -> list[str]:
    """Return what of an instance document is not as the module has it."""
    if not isinstance(document, dict) or set(document) != {"etsi-qkd-sdn-node:qkd_node"}:
        return ["the top is not etsi-qkd-sdn-node:qkd_node alone"]
    node = document["etsi-qkd-sdn-node:qkd_node"]
    found = list(_in_tree("qkd_node", NODE, node))
    if isinstance(node, dict):
        found += [] if "qkdn_id" in node else ["qkd_node: qkdn_id is mandatory"]
        found += _whens(node)
    return found


def _in_tree(where: str, tree: Tree, value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: no object"
        return
    for name, inner in value.items():
        if name not in tree:
            yield f"{where}/{name}: no such node"
        else:
            yield from _at(f"{where}/{name}", tree[name], inner)


def _at(where: str, kind: Any, value: Any) -> Iterator[str]:
    if isinstance(kind, Entries):
        yield from _in_list(where, kind, value)
    elif isinstance(kind, Leaves):
        if not isinstance(value, list) or not all(map(kind[0], value)) or len(set(value)) != len(value):
            yield f"{where}: {value!r} is no leaf-list of its type, each value once"
    elif isinstance(kind, dict):
        yield from _in_tree(where, kind, value)
    elif not kind(value):
        yield f"{where}: {value!r} is not of its type"


def _in_list(where: str, kind: Entries, value: Any) -> Iterator[str]:
    key, tree = kind
    if not isinstance(value, list):
        yield f"{where}: no list"
        return
    keys = [one.get(key) for one in value]
    if None in keys or len(set(keys)) != len(keys):
        yield f"{where}: {key} is not there, or not unique, in {keys}"
    for one in value:
        yield from _in_tree(where, tree, one)


def _whens(node: dict[str, Any]) -> Iterator[str]:
    """What is of virtual links or of physical ones alone stands at no others."""
    for link in node.get("qkd_links", {}).get("qkd_link", []):
        other = "phys_" if str(link.get("qkdl_type")).endswith(":VIRT") else "virt_"
        names = [*link, *link.get("qkdl_performance", {})]
        yield from (f"qkd_link/{name}: of another type of link" for name in names if name.startswith(other))
