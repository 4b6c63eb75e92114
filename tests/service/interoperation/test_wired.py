"""What an operator configures, served whole: borders (ETSI GS QKD 020), streams (004), sources (014, files)."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs
from tests.service.delivery import test_two_key_managers as foreign_operator
from tests.service.interoperation.border import run, seeded
from tests.service.interoperation.installed import (
    ALICE,
    ANNA,
    JINAN,
    QINGDAO,
    WEIFANG,
    asking,
    configured,
    delivery_of,
    free_address,
    hosted,
    install,
    reaching,
    supply,
    until,
)
from tests.service.interoperation.raw_files import raw_file
from tests.service.interoperation.test_serving import Authority

from qsotn.adapters.keysource.etsi014 import Etsi014Client
from qsotn.adapters.keysource.foreign import Account
from qsotn.app.service_files import TLS_FILES
from qsotn.domain import KeyId, Secret
from qsotn.errors import LineError, Refusal, UsageError
from qsotn.keynetwork.delivery import parse_key_id
from qsotn.service import link_keys, sources
from qsotn.service.config import ServiceConfiguration
from qsotn.service.delivery import etsi014
from qsotn.service.delivery.assignments import Named
from qsotn.service.delivery.etsi014_identity import sae_of, standard_server_context
from qsotn.service.host import Host
from qsotn.service.interoperation import border_server, gateway
from qsotn.service.interoperation import etsi020_messages as form
from qsotn.service.interoperation.border_store import BorderStore
from qsotn.service.interoperation.configuration import StreamsSection
from qsotn.service.interoperation.etsi004_client import StreamClient
from qsotn.service.interoperation.etsi004_messages import CONNECT, Connect, QoS, Status, StreamReport
from qsotn.service.interoperation.etsi020_client import HttpLine
from qsotn.service.interoperation.forwarding import Forwarding
from qsotn.service.interoperation.ingestion import Register
from qsotn.service.interoperation.operators import Operator
from qsotn.service.interoperation.sent import Sending
from qsotn.service.link_keys import LinkStatus
from qsotn.service.source_config import load_sources

WANDA, EAST_BORDER, WEST_BORDER = "wanda", "border.east.example", "border.west.example"
"""Wanda is attached at the west's key manager, a host of the same installation that the east knows nothing of."""
LINK, OTHER_LINK = "jinan-weifang", "weifang-qingdao"


@pytest.fixture
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("wired"))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    for name in (EAST_BORDER, WEST_BORDER, WANDA, "alice", "bob", "kme"):
        made.issue(name)
    return made


# --- ETSI GS QKD 020 --------------------------------------------------------------------------------------------------


def border(authority: Authority, own: tuple[str, str], other: tuple[str, str], sae: str) -> str:
    (name, address), (far, far_address) = own, other
    return f"""
[border]
address = "{address}"
own_url = "https://{address}"
certificate = "{authority.folder / name}.pem"
key = "{authority.folder / name}.key"
authority = "{authority.certificate}"
[[border.operator]]
name = "{far}"
url = "https://{far_address}"
saes = ["{sae}"]
"""


def west_delivery(authority: Authority) -> str:
    return f"""
[delivery]
address = "{free_address()}"
tls = "standard"
certificate = "{authority.folder / WEST_BORDER}.pem"
key = "{authority.folder / WEST_BORDER}.key"
client_ca = "{authority.certificate}"
[[sae]]
id = "{WANDA}"
km = "{WEIFANG}"
"""


class Operators:
    """The east, with two key managers, of which Jinan's is at the border; and the west, with one."""

    def __init__(self, state: Path, authority: Authority) -> None:
        self.authority = authority
        east, west = (EAST_BORDER, free_address()), (WEST_BORDER, free_address())
        foreign = f'[[sae]]\nid = "{WANDA}"\nkm = "{JINAN}"\n'
        self.jinan = configured(state, JINAN, border(authority, east, west, WANDA))
        self.qingdao = configured(state, QINGDAO, foreign)
        more = west_delivery(authority) + border(authority, west, east, ALICE).replace(
            f'saes = ["{ALICE}"]', f'saes = ["{ALICE}", "{ANNA}"]'
        )
        self.weifang = configured(state, WEIFANG, more)

    @contextlib.asynccontextmanager
    async def wanda(self) -> AsyncIterator[Etsi014Client]:
        assert self.weifang.delivery is not None
        url = f"https://{self.weifang.delivery.address}"
        context = self.authority.context(WANDA, server=False)
        async with Etsi014Client(url, lambda: context) as client:
            yield client


def bits(keys: Sequence[Any]) -> list[tuple[str, bytes]]:
    return [(key.key_id, key.key.reveal()) for key in keys]


def test_keys_cross_the_border_in_both_directions_and_for_a_master_at_another_key_manager(
    state: Path, authority: Authority
) -> None:
    async def story() -> None:
        both = Operators(state, authority)
        async with contextlib.AsyncExitStack() as stack:
            jinan, qingdao, weifang = [
                await stack.enter_async_context(hosted(one)) for one in (both.jinan, both.qingdao, both.weifang)
            ]
            alice = await stack.enter_async_context(asking(state, ALICE, both.jinan))
            anna = await stack.enter_async_context(asking(state, ANNA, both.qingdao))
            wanda = await stack.enter_async_context(both.wanda())
            await supply(jinan, jinan)
            await supply(qingdao, jinan)
            await supply(weifang, weifang)

            given = await alice.enc_keys(WANDA, 3, 256)
            assert bits(await wanda.dec_keys(ALICE, [key.key_id for key in given], 256)) == bits(given)
            given = await anna.enc_keys(WANDA, 2, 512)
            assert bits(await wanda.dec_keys(ANNA, [key.key_id for key in given], 512)) == bits(given)
            assert await sent_states(jinan) == set()
            (lost,) = await anna.enc_keys(WANDA, 1, 256)
            await delivery_of(qingdao)._far_ends[JINAN].void([named(lost.key_id)])

            async def void_there() -> bool:
                return await sent_states(jinan) == {Sending.VOIDED}

            await until(void_there)
            with pytest.raises(Refusal, match="not found"):
                await wanda.dec_keys(ANNA, [lost.key_id], 256)

            given = await wanda.enc_keys(ALICE, 1, 256)
            assert bits(await alice.dec_keys(WANDA, [key.key_id for key in given], 256)) == bits(given)
            with pytest.raises(Refusal, match="not found"):
                await wanda.dec_keys(ANNA, [key.key_id for key in given], 256)

    run(story())


def test_keys_of_another_operator_go_on_to_an_sae_at_a_key_manager_behind_the_border(
    state: Path, authority: Authority
) -> None:
    async def story() -> None:
        both = Operators(state, authority)
        async with contextlib.AsyncExitStack() as stack:
            jinan, qingdao, weifang = [
                await stack.enter_async_context(hosted(one)) for one in (both.jinan, both.qingdao, both.weifang)
            ]
            anna = await stack.enter_async_context(asking(state, ANNA, both.qingdao))
            wanda = await stack.enter_async_context(both.wanda())
            pool = await supply(jinan, qingdao)
            await supply(weifang, weifang)
            for size in (256, 512):
                given = await wanda.enc_keys(ANNA, 3, size)
                key_ids = [key.key_id for key in given]
                again = [await anna.dec_keys(WANDA, key_ids, size) for _ in range(2)]
                assert bits(again[0]) == bits(again[1]) == bits(given)
                with pytest.raises(Refusal, match="not found"):
                    await anna.dec_keys(WANDA, key_ids[:1], size)
            ends = [(await delivery_of(host).pools())[pool] for host in (jinan, qingdao)]
            assert [end.delivered for end in ends] == [3 + 6, 3 + 6], "each key took its own length of the pool"
            assert [end.waiting + end.voided for end in ends] == [0, 0]
            found = await delivery_of(jinan).foreign(given[0].key_id)
            assert found is not None
            assert found.operator == WEST_BORDER
            assert parse_key_id(found.pad) is not None

    run(story())


def test_keys_that_go_on_do_so_once_there_are_pads_and_are_withdrawn_when_their_operator_says_so(
    state: Path, authority: Authority
) -> None:
    key_id = "11111111-2222-4333-8444-555555555555"

    async def story() -> None:
        both = Operators(state, authority)
        assert both.jinan.border is not None
        origin = both.jinan.border.own_url
        connector = aiohttp.TCPConnector(ssl=authority.context(WEST_BORDER, server=False))

        async def told(path: str, **members: Any) -> tuple[int, Any]:
            whole = {"initiator_sae_id": WANDA, "target_sae_ids": [ANNA], **members}
            async with session.post(f"{origin}{path}", json=whole) as answer:
                return answer.status, await answer.json()

        async with (
            hosted(both.jinan) as jinan,
            hosted(both.qingdao) as qingdao,
            asking(state, ANNA, both.qingdao) as anna,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            keys = [{"key_id": key_id, "value": "wHHVxRwDJs3/bXd38GHP3oe4svTuRpZS0yCC7x4Ly+s="}]
            status, problem = await told(form.EXT_KEYS, keys=keys)
            assert (status, problem["title"]) == (503, "server side general error"), "no pad is ready yet"
            await supply(jinan, qingdao)
            status, acks = await told(form.EXT_KEYS, keys=keys)
            assert (status, acks[0]["ack_status"]) == (200, "relayed")
            status, acks = await told(form.VOID, key_ids=[key_id])
            assert (status, acks[0]["ack_status"]) == (200, "failed to void")

            async def gone() -> bool:
                return sum(count.voided for count in (await delivery_of(qingdao).pools()).values()) > 0

            await until(gone)
            with pytest.raises(Refusal, match="not found"):
                await anna.dec_keys(WANDA, [KeyId(key_id)], 256)

            await supply(qingdao, qingdao)
            (own,) = await delivery_of(qingdao).desk.reserve(ANNA, [ANNA], 1, 256)
            keys = [{"key_id": own.key_id, "value": "wHHVxRwDJs3/bXd38GHP3oe4svTuRpZS0yCC7x4Ly+s="}]
            status, acks = await told(form.EXT_KEYS, keys=keys)
            assert (status, acks[0]["ack_status"]) == (200, "failed"), "no operator takes the place of a key of ours"

    run(story())


def named(key_id: KeyId) -> Named:
    """A key of Qingdao's first pool towards Jinan, as the two key managers call it."""
    parsed = parse_key_id(key_id)
    assert parsed is not None
    return Named(JINAN, 1, (parsed[1],))


def test_where_the_other_operator_is_away_no_master_has_a_key_and_both_its_ends_are_void(
    state: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "FORWARDED_S", 0.3)

    async def story() -> None:
        both = Operators(state, authority)
        async with (
            hosted(both.jinan) as jinan,
            hosted(both.qingdao) as qingdao,
            asking(state, ANNA, both.qingdao) as anna,
        ):
            pool = await supply(qingdao, jinan)
            before = await voided(qingdao, pool)
            with pytest.raises(LineError, match="did not acknowledge keys in time"):
                await anna.enc_keys(WANDA, 2, 256)

            async def void_here() -> bool:
                return await voided(qingdao, pool) == before + 2

            async def void_there() -> bool:
                return await sent_states(jinan) == {Sending.VOIDED}

            await until(void_here)
            assert await sent_states(jinan) == {Sending.VOIDING}
            async with hosted(both.weifang):
                await until(void_there)

    run(story())


async def sent_states(border: Host) -> set[str]:
    """What became of all keys that were sent to another operator and not taken there."""

    def read(store: BorderStore) -> set[str]:
        with store.transaction() as at:
            return {state for (state,) in at.execute("SELECT state FROM sent WHERE state <> 'relayed'")}

    assigned = delivery_of(border).assigned
    assert isinstance(assigned, Forwarding)
    return await assigned._gateway._store.call(read)


async def voided(host: Host, pool: Any) -> int:
    return (await delivery_of(host).pools())[pool].voided


def test_what_the_border_refuses_is_json_of_the_standards_form(state: Path, authority: Authority) -> None:
    async def story() -> None:
        both = Operators(state, authority)
        assert both.jinan.border is not None
        connector = aiohttp.TCPConnector(ssl=authority.context(WEST_BORDER, server=False))
        async with hosted(both.jinan), aiohttp.ClientSession(connector=connector) as session:
            for method, path, body, status in (
                ("GET", form.VERSIONS, b"", 200),
                ("POST", form.EXT_KEYS, b"", 400),
                ("GET", "/nothing", b"", 404),
                ("POST", form.ACK, bytes(600 * 1024), 413),
            ):
                async with session.request(method, f"{both.jinan.border.own_url}{path}", data=body) as answer:
                    assert (answer.status, answer.content_type) == (status, "application/json")
                    told = await answer.json()
                    assert status == 200 or told["status"] == status, told
                    assert status == 200 or set(told) == {"type", "status", "title", "detail", "details"}

    run(story())


def test_a_revoked_operator_is_refused_on_its_open_connection_without_a_restart(
    state: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(border_server, "RELOAD_S", 0.02)
    listed = authority.folder / "operators.crl"
    listed.write_bytes(authority.revocation_list(1))

    async def story() -> None:
        both = Operators(state, authority)
        assert both.jinan.border is not None
        section = msgspec.structs.replace(both.jinan.border, authority_list=listed)
        line = HttpLine(
            Operator("east", section.own_url, frozenset()), partial(authority.context, WEST_BORDER, server=False)
        )
        async with hosted(msgspec.structs.replace(both.jinan, border=section)):
            assert await line.post(form.ACK, b"[]") == 200
            listed.write_bytes(authority.revocation_list(2, WEST_BORDER))

            async def refused() -> bool:
                try:
                    await line.post(form.ACK, b"[]")
                except LineError:
                    return True
                return False

            await until(refused)
        await line.close()

    with capture_logs() as lines:
        run(story())
    (told,) = [line for line in lines if line["event"] == "an operator is refused"]
    assert f"CN={WEST_BORDER} is revoked" in told["reason"]


# --- ETSI GS QKD 004 --------------------------------------------------------------------------------------------------


def reported(host: Host) -> Sequence[StreamReport]:
    streams = delivery_of(host).streams
    assert streams is not None
    return streams.reports()


def with_streams(state: Path, party: Any) -> ServiceConfiguration:
    return configured(state, party, f'[streams]\naddress = "{free_address()}"\n')


def test_two_applications_take_a_stream_whose_rate_is_what_their_pool_gains(state: Path) -> None:
    async def story() -> None:
        near, far = with_streams(state, JINAN), with_streams(state, QINGDAO)
        async with (
            hosted(near) as jinan,
            hosted(far) as qingdao,
            reaching(state, ALICE, near) as by_alice,
            reaching(state, ANNA, far) as by_anna,
        ):
            alice, anna = StreamClient(by_alice), StreamClient(by_anna)
            refused = await alice.open_connect(ALICE, ANNA, QoS(32, max_bps=10**9))
            assert refused.status is Status.QOS_NOT_MET
            await supply(jinan, qingdao)

            async def offered() -> bool:
                asked = await alice.open_connect(ALICE, ANNA, QoS(32, max_bps=10**9))
                return asked.qos.max_bps > refused.qos.max_bps + 1000

            await until(offered)
            opened = await alice.open_connect(ALICE, ANNA, QoS(32, timeout=4000))
            assert (opened.status, opened.qos.max_bps > 1000) == (Status.PEER_NOT_CONNECTED, True)
            assert opened.stream is not None
            (before,) = reported(jinan)
            assert (before.stream, before.qos, before.connected) == (opened.stream, opened.qos, False)
            assert (await anna.open_connect(ALICE, ANNA, QoS(32), opened.stream)).status is Status.SUCCESSFUL
            (report,) = reported(jinan)
            assert (report.source, report.destination, report.km, report.connected) == (ALICE, ANNA, QINGDAO, True)
            assert reported(qingdao) == [], "a stream is reported by whom it belongs to"
            for index in (0, 1):
                ours, theirs = [await one.get_key(opened.stream, index) for one in (alice, anna)]
                assert ours == theirs
                assert ours[0] is Status.SUCCESSFUL
            assert await anna.close(opened.stream) is Status.SUCCESSFUL
            assert (await alice.get_key(opened.stream))[0] is Status.NO_PEER
            with pytest.raises(LineError, match="answered 404"):
                await by_alice.ask("POST", CONNECT, Connect(opened.stream, ALICE), 200)

    run(story())


@pytest.mark.parametrize("table", ["delivery", "streams", "border"])
def test_an_address_that_is_taken_is_named_with_the_table_that_has_it(
    state: Path, authority: Authority, table: str
) -> None:
    whole = configured(state, JINAN, border(authority, (EAST_BORDER, free_address()), (WEST_BORDER, "h:1"), WANDA))
    whole = msgspec.structs.replace(whole, streams=StreamsSection(free_address()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        section = msgspec.structs.replace(getattr(whole, table), address=address)
        told = rf"\[{table}\] address: {address} cannot be listened on: Address already in use"
        with pytest.raises(UsageError, match=told):
            asyncio.run(Host(msgspec.structs.replace(whole, **{table: section})).serve())


# --- sources ----------------------------------------------------------------------------------------------------------


def source_file(folder: Path, state: Path, kmes: tuple[str, str] | None, monitoring: str = "") -> Path:
    """The configuration of a process that feeds a link from files, and one from key managers of others, if any."""
    peers = {km: configured(state, km).listen.address for km in (JINAN, QINGDAO, WEIFANG)}
    lines = ['state = "."', f'[listen]\nmonitoring = "{monitoring}"', "[peers]"]
    lines += [f'"{km}" = ["https://{address}"]' for km, address in peers.items()]
    if kmes is not None:
        lines += ["[[foreign]]", f'link = "{LINK}"', "wanted_bits = 16128", tls_of("foreign", state, LINK)]
        for km, url, sae in ((JINAN, kmes[0], "alice"), (WEIFANG, kmes[1], "bob")):
            lines += ["[[foreign.end]]", f'km = "{km}"', f'url = "{url}"', f'sae = "{sae}"']
            lines += [f'certificate = "{folder / sae}.pem"', f'key = "{folder / sae}.key"']
            lines += [f'authority = "{folder / "authority.pem"}"']
    lines += ["[[files]]", f'link = "{OTHER_LINK}"', tls_of("files", state, OTHER_LINK)]
    for km in (WEIFANG, QINGDAO):
        (folder / km).mkdir(parents=True, exist_ok=True)
        lines += ["[[files.end]]", f'km = "{km}"', f'folder = "{km}"']
    path = folder / "service.toml"
    path.write_text("\n".join(lines))
    return path


def tls_of(table: str, state: Path, link: str) -> str:
    folder = state / "twin" / f"qkd-{link}"
    return "\n".join([f"[{table}.tls]", *(f'{key} = "{folder / name}"' for key, name in TLS_FILES.items())])


@contextlib.asynccontextmanager
async def kmes(authority: Authority) -> AsyncIterator[tuple[str, str]]:
    """Two key managers of somebody else, with real stores, at which we are Alice and Bob over ordinary TLS."""
    server = authority.folder / "kme.pem"
    context = standard_server_context(server, server.with_suffix(".key"), authority.certificate)
    identify = partial(sae_of, known=foreign_operator.HOMES)
    async with foreign_operator.pair(authority.folder) as both, contextlib.AsyncExitStack() as stack:
        urls = []
        for house in (both.near, both.far):
            listener = foreign_operator.listening()
            urls.append(f"https://127.0.0.1:{listener.getsockname()[1]}")
            await stack.enter_async_context(etsi014.listen(house.desk, listener, context, identify))
        yield urls[0], urls[1]


async def status_of(host: Host, link: str) -> LinkStatus:
    def read(node: Any) -> LinkStatus:
        with node.desk() as km:
            return link_keys.status(km, link)

    return await host._worker.call(read)


def test_links_are_fed_from_key_managers_of_others_and_from_files(state: Path, authority: Authority) -> None:
    folder = authority.folder

    async def story() -> None:
        stopping = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            jinan, qingdao, weifang = [
                await stack.enter_async_context(hosted(configured(state, km))) for km in (JINAN, QINGDAO, WEIFANG)
            ]
            urls = await stack.enter_async_context(kmes(authority))
            before = {link: await fewest(link, jinan, qingdao, weifang) for link in (LINK, OTHER_LINK)}
            serving = asyncio.create_task(sources.serve(load_sources(source_file(folder, state, urls)), stopping))
            material = seeded("a device")(4096)
            for km in (WEIFANG, QINGDAO):
                (folder / km / "block-1.bin").write_bytes(raw_file(1, Secret(material)))

            async def fed() -> bool:
                assert not serving.done(), serving.exception()
                grown = [await fewest(link, jinan, qingdao, weifang) > before[link] for link in (LINK, OTHER_LINK)]
                return all(grown)

            await until(fed)
            stopping.set()
            await serving
        totals = Account(folder / f"foreign-{LINK}.json").totals
        assert (totals.underway, totals.lost) == (0, 0)
        assert totals.handed_over == totals.drawn >= 128
        assert Register(folder / f"files-{OTHER_LINK}.register").brought_bits == 4096 * 8
        assert not [path for km in (WEIFANG, QINGDAO) for path in (folder / km).iterdir()]

    run(story())


async def fewest(link: str, jinan: Host, qingdao: Host, weifang: Host) -> int:
    """What the emptier end of a link may still allocate."""
    ends = (jinan, weifang) if link == LINK else (weifang, qingdao)
    return min([(await status_of(end, link)).available_bits for end in ends])


def test_the_process_of_sources_is_ready_says_what_it_brought_and_ends_when_it_is_told(
    state: Path, tmp_path: Path
) -> None:
    monitoring = free_address()
    path = source_file(tmp_path, state, None, monitoring)
    command = [sys.executable, "-m", "qsotn", "serve", "source", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            shown = ""
            while "qsotn_source_brought_bits" not in shown:
                assert process.poll() is None
                with contextlib.suppress(urllib.error.URLError):
                    assert urllib.request.urlopen(f"http://{monitoring}/readyz", timeout=5).status == 200
                    shown = urllib.request.urlopen(f"http://{monitoring}/metrics", timeout=5).read().decode()
            second = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (second.returncode, second.stderr.count("\n")) == (2, 1)
            assert "is in use by another process of sources" in second.stderr
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f'qsotn_source_lost_bits{{link="{OTHER_LINK}"}} 0.0' in shown
    assert ["event=ready" in told, "event=stopping" in told] == [True, True]


def test_a_folder_that_is_not_there_ends_the_process_with_one_clear_word(state: Path, tmp_path: Path) -> None:
    path = source_file(tmp_path, state, None)
    (tmp_path / WEIFANG).rmdir()
    with pytest.raises(UsageError, match=r"km/weifang is no folder that this process can read and write"):
        run(sources.serve(load_sources(path), asyncio.Event()))
    assert [one.name for one in (tmp_path / "km").iterdir()] == ["qingdao"]
