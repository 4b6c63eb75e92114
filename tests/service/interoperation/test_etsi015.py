"""ETSI GS QKD 015: a key manager as the standard's YANG module names it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast
from uuid import UUID

import pytest

from qsotn.app.operator import Operator
from qsotn.app.operator_export import Supplies, export, node_view, virtual_name
from qsotn.app.plan import City, Device, Link, Plan, Relay
from qsotn.domain import End, LineId, PartyId, ProcedureId
from qsotn.errors import LineError
from qsotn.parties.qssp import LineService
from qsotn.service.http.operations_km import LinkSupply, PoolSupply
from qsotn.service.interoperation.etsi015 import LinkView, NodeView, document, identifier

JINAN, WEIFANG, QINGDAO = PartyId("km/jinan"), PartyId("km/weifang"), PartyId("km/qingdao")
QSSP_JINAN, QSSP_QINGDAO = PartyId("qssp/jinan"), PartyId("qssp/qingdao")
LINK = LinkSupply("jinan-weifang", WEIFANG, 4096, 3, 0, 10_000, 5000, 0.00456, 2043.9)
POOL = PoolSupply(JINAN, QINGDAO, 1, 65_536, 512, 0, 0)
LINE = LineService(
    LineId("line-1"), PartyId("cpe/a"), End.A, PartyId("cpe/b"), QSSP_QINGDAO, 60, ProcedureId("p"), confirmed=True
)
HOPS = {WEIFANG: WEIFANG, QINGDAO: WEIFANG}


def node() -> dict[str, Any]:
    view = node_view(Supplies(JINAN, [LINK], [POOL]), [LINE], HOPS)
    found: dict[str, Any] = document(view)["etsi-qkd-sdn-node:qkd_node"]
    return found


def test_a_node_has_its_links_with_their_rates_rounded_to_the_safe_side() -> None:
    physical, virtual = node()["qkd_links"]["qkd_link"]
    assert physical["qkdl_type"] == "etsi-qkd-node-types:PHYS"
    assert physical["qkdl_status"] == "etsi-qkd-node-types:ACTIVE"
    assert physical["qkdl_performance"] == {
        "expected_consumption": 9,
        "skr": 2043,
        "eskr": 2035,
        "phys_perf": [{"perf_type": "etsi-qkd-node-types:QBER", "value": "0.005"}],
    }
    assert physical["qkdl_local"] == {"qkdn_id": identifier("node", JINAN), "qkdi_id": 1}
    assert virtual["qkdl_type"] == "etsi-qkd-node-types:VIRT"
    assert virtual["qkdl_remote"] == {"qkdn_id": identifier("node", QINGDAO)}
    assert (virtual["virt_next_hop"], virtual["virt_bandwidth"]) == ([identifier("node", WEIFANG)], 9)
    assert virtual["qkdl_performance"] == {"expected_consumption": 9}


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

    parties = (QSSP_JINAN, JINAN, WEIFANG, QINGDAO, QSSP_QINGDAO)

    def __init__(self, away: PartyId | None = None) -> None:
        self.away = away

    async def every(self, party: PartyId, path: str, _: type) -> list[Any]:
        if party == self.away:
            raise LineError(f"{party} gave no answer")
        answers: dict[tuple[PartyId, str], list[Any]] = {
            (JINAN, "/links"): [LINK],
            (JINAN, "/pools"): [POOL],
            (QSSP_JINAN, "/services"): [LINE],
        }
        return answers.get((party, path), [])


PLAN = Plan(
    "shandong",
    (City("jinan"), City("qingdao")),
    (Relay("weifang"),),
    (Link("jinan-weifang", ("jinan", "weifang")), Link("weifang-qingdao", ("weifang", "qingdao"))),
    (Device("a", "jinan", "1"), Device("b", "qingdao", "2")),
)


def test_the_whole_province_is_asked_and_every_key_manager_is_one_document() -> None:
    found = asyncio.run(export(cast("Operator", Told()), PLAN))
    assert [one["etsi-qkd-sdn-node:qkd_node"]["qkdn_location_id"] for one in found] == ["jinan", "qingdao", "weifang"]
    assert found[0]["etsi-qkd-sdn-node:qkd_node"] == node()
    json.dumps(found)


def test_a_key_manager_that_does_not_answer_is_no_empty_one() -> None:
    with pytest.raises(LineError, match=WEIFANG):
        asyncio.run(export(cast("Operator", Told(WEIFANG)), PLAN))
