"""ETSI GS QKD 015: a key manager as the standard's YANG module names it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast
from uuid import UUID

import pytest
from tests.service.interoperation.etsi015_yang import wrong

from qsotn.app.operator import Operator
from qsotn.app.operator_export import Province, Supplies, export, node_view, virtual_name
from qsotn.app.plan import City, Device, Link, Plan, Relay, Sae
from qsotn.app.plan_border import Border
from qsotn.domain import End, LineId, PartyId, ProcedureId
from qsotn.errors import LineError
from qsotn.parties.qssp import LineService
from qsotn.service.http.operations_km import LinkSupply, PoolSupply
from qsotn.service.http.operations_rates import NetworkRate
from qsotn.service.interoperation.configuration import OperatorSection
from qsotn.service.interoperation.etsi004_messages import QoS, StreamReport
from qsotn.service.interoperation.etsi015 import LinkView, NodeView, document, identifier

JINAN, WEIFANG, QINGDAO = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
QKMP = PartyId("qkmp/shandong")
QSSP_JINAN, QSSP_QINGDAO = PartyId("qssp/jinan"), PartyId("qssp/qingdao")
LINK = LinkSupply("jinan-weifang", WEIFANG, 4096, 3, 0, 10_000, 5000, 0.00456, 2043.9)
POOL = PoolSupply(JINAN, QINGDAO, 1, 65_536, 512, 0, 0)
LINE = LineService(
    LineId("line-1"), PartyId("cpe/a"), End.A, PartyId("cpe/b"), QSSP_QINGDAO, 60, ProcedureId("p"), confirmed=True
)
HOPS = {WEIFANG: WEIFANG, QINGDAO: WEIFANG}
SAES = {"bank": JINAN, "till": JINAN, "branch": QINGDAO, "bank west/1": JINAN}
QOS = QoS(32, max_bps=4096, min_bps=512, jitter=20, priority=3, ttl=60)
STREAM = StreamReport("3f2c8a54-6d0b-4c58-9f4e-0a1b2c3d4e5f", "bank", "branch", QINGDAO, QOS, connected=True)
RATES = [
    NetworkRate("link jinan-weifang", JINAN, 1500.7, 40.5, 600.0),
    NetworkRate("link jinan-weifang", WEIFANG, 1500.7, 9.0, 600.0),
    NetworkRate("pool km/jinan>km/qingdao", JINAN, 300.9, 100.2, 120.0),
]


def seen(*rates: NetworkRate, saes: dict[str, PartyId] | None = None) -> Province:
    return Province({(one.what, one.km): one for one in rates}, saes or {})


def node(around: Province | None = None, *streams: StreamReport) -> dict[str, Any]:
    whole = document(node_view(Supplies(JINAN, [LINK], [POOL], streams), [LINE], HOPS, around or seen(*RATES)))
    assert wrong(whole) == []
    found: dict[str, Any] = whole["etsi-qkd-sdn-node:qkd_node"]
    return found


def test_a_node_has_its_links_with_their_rates_rounded_to_the_safe_side() -> None:
    physical, virtual = node()["qkd_links"]["qkd_link"]
    assert physical["qkdl_type"] == "etsi-qkd-node-types:PHYS"
    assert physical["qkdl_status"] == "etsi-qkd-node-types:ACTIVE"
    assert physical["qkdl_performance"] == {
        "expected_consumption": 109,
        "skr": 1500,
        "eskr": 1391,
        "phys_perf": [{"perf_type": "etsi-qkd-node-types:QBER", "value": "0.005"}],
    }
    assert physical["qkdl_local"] == {"qkdn_id": identifier("node", JINAN), "qkdi_id": 1}
    assert virtual["qkdl_type"] == "etsi-qkd-node-types:VIRT"
    assert virtual["qkdl_remote"] == {"qkdn_id": identifier("node", QINGDAO)}
    assert (virtual["virt_next_hop"], virtual["virt_bandwidth"]) == ([identifier("node", WEIFANG)], 109)
    assert virtual["qkdl_performance"] == {"expected_consumption": 109, "skr": 300, "eskr": 192}


def test_a_rate_is_an_average_that_was_watched_for_a_minute_and_nothing_momentary() -> None:
    short = [NetworkRate(one.what, one.km, one.gained_bits_s, one.drawn_bits_s, 59.9) for one in RATES]
    for around in (seen(), seen(*short)):
        physical, virtual = node(around)["qkd_links"]["qkd_link"]
        assert "skr" not in physical["qkdl_performance"], "what its newest block says of itself is no average"
        assert "eskr" not in virtual["qkdl_performance"]


@pytest.mark.parametrize(
    ("least", "rates", "expected"),
    [
        (0, RATES[:2], 50),
        (512, [], 521),
        (512, RATES, 521),
        (80, RATES, 109),
    ],
)
def test_a_links_consumption_is_of_lines_and_of_what_streams_were_promised_or_saes_take(
    least: int, rates: list[NetworkRate], expected: int
) -> None:
    stream = StreamReport("s", "bank", "branch", QINGDAO, QoS(32, min_bps=least), connected=False)
    physical, virtual = node(seen(*rates), stream)["qkd_links"]["qkd_link"]
    assert physical["qkdl_performance"]["expected_consumption"] == expected
    assert virtual["qkdl_performance"]["expected_consumption"] == (9 if rates == RATES[:2] else expected)


def test_saes_and_their_streams_are_applications_with_their_quality_of_service() -> None:
    found = node(seen(*RATES, saes=SAES), STREAM)
    line, stream, *saes = found["qkd_applications"]["qkd_app"]
    assert stream["app_qos"] == {"max_bandwidth": 4096, "min_bandwidth": 512, "jitter": 20, "ttl": 60}
    assert (stream["app_priority"], stream["app_status"]) == (3, "etsi-qkd-node-types:ON")
    assert (stream["server_app_id"], stream["client_app_id"]) == ("urn:qsotn:sae/bank", ["urn:qsotn:sae/branch"])
    assert stream["backing_qkdl_id"] == line["backing_qkdl_id"]
    shown = {(one["server_app_id"], tuple(one["client_app_id"]), one["remote_qkdn_id"]) for one in saes}
    bank, till, west, branch = (f"urn:qsotn:sae/{name}" for name in ("bank", "till", "bank%20west%2F1", "branch"))
    here, there = identifier("node", JINAN), identifier("node", QINGDAO)
    assert shown == {
        (bank, (west, till), here),
        (bank, (branch,), there),
        (west, (bank, till), here),
        (west, (branch,), there),
        (till, (bank, west), here),
        (till, (branch,), there),
    }
    assert all("app_status" not in one and one["app_qos"] == {} for one in saes), (
        "nobody asks an SAE whether it is there"
    )
    local = next(one for one in saes if one["remote_qkdn_id"] == here)
    assert local["backing_qkdl_id"] == [], "keys of one key manager cross no link"


def test_what_a_stream_leaves_open_is_left_out() -> None:
    stream = StreamReport("s", "bank", "branch", QINGDAO, QoS(32), connected=False)
    _, shown = node(seen(), stream)["qkd_applications"]["qkd_app"]
    assert shown["app_qos"] == {}
    assert shown["app_status"] == "etsi-qkd-node-types:DISCONNECTED"


def test_a_line_is_an_application_that_its_links_name_too() -> None:
    found = node()
    (application,) = found["qkd_applications"]["qkd_app"]
    assert application["app_qos"] == {"min_bandwidth": 9}
    assert application["server_app_id"] == "urn:qsotn:qssp/jinan"
    assert application["client_app_id"] == ["urn:qsotn:qssp/qingdao"]
    assert application["app_status"] == "etsi-qkd-node-types:ON"
    links = found["qkd_links"]["qkd_link"]
    assert application["backing_qkdl_id"] == [link["qkdl_id"] for link in links]
    assert all(link["qkdl_applications"] == [application["app_id"]] for link in links)


@pytest.mark.parametrize(
    ("generates", "bits", "status"), [(True, 0, "ACTIVE"), (False, 256, "PASSIVE"), (False, 0, "OFF")]
)
def test_a_link_says_whether_key_comes_in_and_whether_there_is_some(generates: bool, bits: int, status: str) -> None:
    view = NodeView(JINAN, "1", "jinan", True, (LinkView("l", WEIFANG, bits, generates),))
    (link,) = document(view)["etsi-qkd-sdn-node:qkd_node"]["qkd_links"]["qkd_link"]
    assert link["qkdl_status"] == f"etsi-qkd-node-types:{status}"
    assert link["qkdl_performance"] == {}, "what is not known is not there"


def test_both_ends_of_a_link_and_every_export_name_it_by_the_same_uuid() -> None:
    assert identifier("link", "jinan-weifang") == identifier("link", "jinan-weifang")
    assert UUID(identifier("node", JINAN)).version == 5
    assert identifier("node", "x") != identifier("link", "x")
    assert virtual_name(JINAN, QINGDAO) == virtual_name(QINGDAO, JINAN)


class Told:
    """The answers of a province's services."""

    parties = (QKMP, QSSP_JINAN, JINAN, WEIFANG, QINGDAO, QSSP_QINGDAO)

    def __init__(self, away: PartyId | None = None) -> None:
        self.away = away

    async def every(self, party: PartyId, path: str, _: type) -> list[Any]:
        if party == self.away:
            raise LineError(f"{party} gave no answer")
        answers: dict[tuple[PartyId, str], list[Any]] = {
            (JINAN, "/links"): [LINK],
            (JINAN, "/pools"): [POOL],
            (JINAN, "/streams"): [STREAM],
            (QKMP, "/network/rates"): RATES,
            (QSSP_JINAN, "/services"): [LINE],
        }
        return answers.get((party, path), [])


PLAN = Plan(
    "shandong",
    (City("jinan"), City("qingdao")),
    (Relay("weifang"),),
    (Link("jinan-weifang", ("jinan", "weifang")), Link("weifang-qingdao", ("weifang", "qingdao"))),
    (Device("a", "jinan", "1"), Device("b", "qingdao", "2")),
    saes=(Sae("bank", "jinan"), Sae("till", "jinan"), Sae("branch", "qingdao")),
    border=Border("jinan", "", "", "", "", (OperatorSection("west", "", ("bank west/1",)),)),
)


def test_the_whole_province_is_asked_and_every_key_manager_is_one_document() -> None:
    found = asyncio.run(export(cast("Operator", Told()), PLAN))
    assert [one["etsi-qkd-sdn-node:qkd_node"]["qkdn_location_id"] for one in found] == ["jinan", "qingdao", "weifang"]
    assert found[0]["etsi-qkd-sdn-node:qkd_node"] == node(seen(*RATES, saes=SAES), STREAM)
    assert [wrong(json.loads(json.dumps(one))) for one in found] == [[], [], []]


@pytest.mark.parametrize("away", [WEIFANG, QKMP])
def test_a_key_manager_or_qkmp_that_does_not_answer_is_no_empty_one(away: PartyId) -> None:
    with pytest.raises(LineError, match=away):
        asyncio.run(export(cast("Operator", Told(away)), PLAN))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("qkdn_id",), None, "qkdn_id is mandatory"),
        (("qkdn_status",), "OPERATING", "is not of its type"),
        (("qkd_links", "qkd_link", 0, "qkdl_performance", "skr"), 1500.7, "is not of its type"),
        (("qkd_links", "qkd_link", 0, "qkdl_performance", "skr"), 2**32, "is not of its type"),
        (("qkd_links", "qkd_link", 0, "qkdl_performance", "phys_perf", 0, "value"), 0.005, "is not of its type"),
        (("qkd_links", "qkd_link", 0, "virt_bandwidth"), 1, "of another type of link"),
        (("qkd_applications", "qkd_app", 0, "app_qos", "max_bps"), 1, "no such node"),
        (("qkd_applications", "qkd_app", 0, "app_id"), None, "not there, or not unique"),
        (("qkd_applications", "qkd_app", 0, "server_app_id"), "a bank", "is not of its type"),
    ],
)
def test_the_table_of_the_module_finds_what_is_wrong(place: tuple[str | int, ...], value: object, told: str) -> None:
    whole: Any = document(node_view(Supplies(JINAN, [LINK], [POOL]), [LINE], HOPS, seen(*RATES)))
    at = whole["etsi-qkd-sdn-node:qkd_node"]
    for step in place[:-1]:
        at = at[step]
    if value is None:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    assert any(told in one for one in wrong(whole)), wrong(whole)
