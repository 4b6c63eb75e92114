"""The whole way once: processes' hosts, their certificates, loopback TLS. A QKMP watches three key managers."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.service.desks import run

from qsotn.app.installation import create_installation
from qsotn.app.operator import Operator, urls_of
from qsotn.app.operator_errors import Declined
from qsotn.app.operator_network import NetworkShown, key_network
from qsotn.app.plan import sample_file
from qsotn.app.record import ADMIN, ProvinceRecord, load_record, operator_tls, party_place
from qsotn.domain import PartyId, Role, role_of
from qsotn.service.config import CONFIGURATION, SupervisionSection, load_configuration
from qsotn.service.host import Host
from qsotn.service.http.operations_km import LinkSupply
from qsotn.service.http.paging import Page
from qsotn.service.identity_files import Credentialed

KMS = [PartyId(f"km/{place}") for place in ("jinan", "qingdao", "weifang")]
QKMP = PartyId("qkmp/shandong")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A province that nobody started."""
    place = tmp_path_factory.mktemp("watched")
    file = place / "province.toml"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0"))
    create_installation(file, place / "state", os.urandom, dt.datetime.now(dt.UTC))
    return place / "state"


def host_of(state: Path, record: ProvinceRecord, party: PartyId) -> Host:
    """One party's host; the QKMP looks ten times a second, at key managers alone."""
    configuration = load_configuration(state / party_place(party) / CONFIGURATION)
    if role_of(party) is Role.QKMP:
        watching = SupervisionSection(interval_s=0.1, link_bits=0)
        peers = {km: record.urls(km) for km in KMS}
        configuration = msgspec.structs.replace(configuration, peers=peers, supervision=watching)
    return Host(configuration)


@contextlib.asynccontextmanager
async def serving(state: Path, record: ProvinceRecord, party: PartyId) -> AsyncIterator[None]:
    host = host_of(state, record, party)
    task = asyncio.create_task(host.serve())
    while host._readiness().reasons == ("starting",):
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        host._stopping.set()
        await task


async def seen(operator: Operator, silent: set[PartyId]) -> NetworkShown:
    """What the QKMP shows once exactly these do not answer, and that is told as an alarm."""
    while True:
        shown = await key_network(operator)
        quiet = {one.party for one in shown.network.parties if one.silent_since}
        told = {one.subject for one in shown.alarms if one.cause == "PARTY_SILENT"}
        if len(shown.network.parties) == len(KMS) and quiet == told == silent:
            return shown
        await asyncio.sleep(0.05)


def test_a_qkmp_watches_key_managers_over_tls_and_names_the_one_that_stops(state: Path) -> None:
    async def story() -> None:
        record, itself = load_record(state), Credentialed(ADMIN, operator_tls(state))
        async with contextlib.AsyncExitStack() as stack:
            for party in (KMS[0], KMS[2], QKMP):
                await stack.enter_async_context(serving(state, record, party))
            operator = await stack.enter_async_context(Operator(urls_of(record), itself.client))
            async with serving(state, record, KMS[1]):
                shown = await seen(operator, set())
            assert [(one.link, one.state) for one in shown.network.links] == [
                ("jinan-weifang", "UP"),
                ("weifang-qingdao", "UP"),
            ]
            shown = await seen(operator, {KMS[1]})
            assert {one.link: str(one.state) for one in shown.network.links} == {
                "jinan-weifang": "UP",
                "weifang-qingdao": "SILENT",
            }

    run(story())


def test_the_qkmp_may_ask_for_counts_and_for_nothing_else(state: Path) -> None:
    async def story() -> None:
        record = load_record(state)
        tls = load_configuration(state / party_place(QKMP) / CONFIGURATION).tls
        async with serving(state, record, KMS[0]), Operator(urls_of(record), Credentialed(QKMP, tls).client) as asking:
            page = await asking.read(KMS[0], "/links", Page[LinkSupply])
            assert [one.link for one in page.items] == ["jinan-weifang"]
            with pytest.raises(Declined, match="qkmp/shandong may not: this is for operator"):
                await asking.read(KMS[0], "/links/jinan-weifang/blocks", Page[LinkSupply])

    run(story())
