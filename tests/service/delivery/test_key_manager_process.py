"""A key manager's whole process, with keys for SAEs: what its operator and Prometheus see of them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.service.desks import run

from qsotn.app.installation import create_installation
from qsotn.app.operator import Operator, urls_of
from qsotn.app.operator_network import key_provenance
from qsotn.app.plan import sample_file
from qsotn.app.record import ADMIN, load_record, operator_tls, party_place
from qsotn.crypto.identity import Identity
from qsotn.domain import PartyId, Secret
from qsotn.keynetwork import provenance
from qsotn.keynetwork.delivery import Deposit, ReadyKey, Reserve
from qsotn.keynetwork.provenance import Order, Statement, leg
from qsotn.keynetwork.relay import Mode, UnitRange
from qsotn.runtime import Node
from qsotn.service.config import CONFIGURATION, load_configuration
from qsotn.service.delivery.server import DeliveryService
from qsotn.service.host import Host, now_us
from qsotn.service.identity_files import Credentialed

NEAR, FAR = PartyId("km/jinan"), PartyId("km/qingdao")
SAES = """
[[sae]]
name = "alice"
city = "jinan"

[[sae]]
name = "bob"
city = "qingdao"
"""
UNITS = tuple(Secret(bytes([at]) * 32) for at in range(4))


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A province with two SAEs that nobody started."""
    place = tmp_path_factory.mktemp("with-saes")
    file = place / "province.toml"
    file.write_text(sample_file().read_text().replace("first_port = 7400", "first_port = 0") + SAES)
    create_installation(file, place / "state", os.urandom, dt.datetime.now(dt.UTC))
    return place / "state"


@contextlib.asynccontextmanager
async def serving(state: Path) -> AsyncIterator[Host]:
    host = Host(load_configuration(state / party_place(NEAR) / CONFIGURATION))
    task = asyncio.create_task(host.serve())
    while host._readiness().reasons == ("starting",):
        assert not task.done(), task.exception()
        await asyncio.sleep(0.01)
    try:
        yield host
    finally:
        host._stopping.set()
        await task


def begun(identity: Identity, order: Order) -> bytes:
    """What the origin of a supply signs, which is all that there is of this one."""
    passed = leg("jinan-weifang", (UnitRange(1, 0, order.units),), b"")
    bits = Secret(b"".join(unit.reveal() for unit in UNITS))
    told = Statement(order, 0, NEAR, FAR, None, passed, provenance.commitment(order, bits), b"", now_us())
    return provenance.encode([[provenance.sign(identity, told)]])


async def a_key(host: Host) -> ReadyKey:
    """Deposit units with their provenance, and have a key made of them."""
    delivery = host._delivery
    assert isinstance(delivery, DeliveryService)
    pool = await delivery._group.call(lambda store: store.begin_pool(NEAR, FAR))
    first = await delivery._group.call(lambda store: store.next_number(pool))
    order = Order("batch-1", 0, 1, NEAR, FAR, pool.series, first, 4, Mode.ONE_TIME_PAD, (), now_us() + 10**9)
    signed = begun(await host._worker.call(identity_of), order)
    await delivery._group.apply(Deposit(pool, "batch-1", first, UNITS, signed))
    (key,) = await delivery._group.apply(Reserve(pool, "alice", ("bob",), 1, 256, now_us(), held=True))
    return key


def identity_of(node: Node) -> Identity:
    return node.identity


async def metrics_of(host: Host) -> str:
    """What is at the monitoring listener, over plain HTTP."""
    address, _, port = host._configuration.listen.monitoring.rpartition(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: monitoring\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.decode()


def test_an_operator_sees_the_way_of_a_key_and_prometheus_what_saes_asked(state: Path) -> None:
    async def story() -> None:
        record, itself = load_record(state), Credentialed(ADMIN, operator_tls(state))
        async with serving(state) as host, Operator(urls_of(record), itself.client) as operator:
            key = await a_key(host)
            shown = await key_provenance(operator, key.key_id)
            (told,) = shown.told
            assert (told.km, told.batch, told.paths) == (NEAR, "batch-1", ((NEAR,),))
            assert [(one.party, one.verified) for one in told.statements] == [(NEAR, True)]
            assert not told.verified
            assert "before its last key manager" in told.reason
            assert {one.party for one in shown.unreached} == {FAR, PartyId("km/weifang")}
            assert not (await key_provenance(operator, "00000000-0000-4000-8000-000000000000")).told
            assert isinstance(host._delivery, DeliveryService)
            host._delivery.counters.observed("enc_keys", 200, 0.5, False)
            assert 'qsotn_sae_requests_total{method="enc_keys",status="200"} 1.0' in await metrics_of(host)

    run(story())
