"""ETSI GS QKD 004: two applications take the same chunks under the same indexes, each chunk once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.service.interoperation.border import EAST, WEST, Network, run

from qsotn.domain import PartyId
from qsotn.errors import LineError, QsotnError
from qsotn.service.delivery.saes import Saes
from qsotn.service.interoperation import etsi004_messages as form
from qsotn.service.interoperation.etsi004 import KeyStreams, Surroundings
from qsotn.service.interoperation.etsi004_client import RemoteOwner, StreamClient
from qsotn.service.interoperation.etsi004_http import Etsi004
from qsotn.service.interoperation.etsi004_messages import QoS, Status
from qsotn.service.interoperation.etsi004_peers import StreamsForPeers
from qsotn.service.interoperation.etsi004_streams import MOST_AHEAD, MOST_KEPT, GivenOnce
from qsotn.service.interoperation.reply import Reply, json_reply, problem_of

A, B, NEAR = "app-a", "app-b", "app-near"
"""A and NEAR are attached in the east, B in the west."""
HOMES = {A: EAST, NEAR: EAST, B: WEST}
QUICK = QoS(32, timeout=150)
FAST_BPS = 10_000_000


@dataclass
class Listener:
    """One key manager: what applications ask over HTTP, and what other key managers ask."""

    http: Etsi004
    peers: StreamsForPeers

    async def answer(self, peer: str, method: str, path: str, body: bytes) -> Reply:
        asked = KX.get(path)
        if asked is None:
            return await self.http.answer(peer, method, path, body)
        function, kind = asked
        try:
            found = await function(self.peers, PartyId(peer), msgspec.json.decode(body, type=kind))
        except QsotnError as error:
            return problem_of(error)
        return Reply(204) if found is None else json_reply(200, found)


KX: dict[str, tuple[Any, Any]] = {
    form.CONNECT: (StreamsForPeers.connect, form.Connect),
    form.LOCATE: (StreamsForPeers.locate, form.Locate),
    form.LEAVE: (StreamsForPeers.leave, form.Leave),
}


@dataclass
class Line:
    """Requests of one peer to one key manager, which may be cut."""

    peer: str
    listener: Callable[[], Listener]
    cut: bool = False
    slow_s: float = 0.0

    async def ask(self, method: str, path: str, body: msgspec.Struct | None, expected: int) -> bytes:
        if self.cut:
            raise LineError("cut")
        await asyncio.sleep(self.slow_s)
        reply = await self.listener().answer(self.peer, method, path, msgspec.json.encode(body))
        await asyncio.sleep(self.slow_s)
        if reply.status != expected:
            raise LineError(reply.body.decode())
        return reply.body


class Pair:
    """Two key managers over one network of ready keys; `now` only moves when a test says so, if it says so."""

    def __init__(self, bps: int = FAST_BPS, most: int = 5000) -> None:
        self.network = Network(EAST, dict(HOMES), most)
        self.moved: float | None = None
        self.bps = bps
        self.lines = {EAST: Line(WEST, lambda: self.http[EAST]), WEST: Line(EAST, lambda: self.http[WEST])}
        self.streams = {own: self.begin(own) for own in (EAST, WEST)}
        self.http = {own: self.listener(own) for own in (EAST, WEST)}
        self.a, self.near = self.client(A), self.client(NEAR)
        self.b = self.client(B)

    def begin(self, own: PartyId) -> KeyStreams:
        around = Surroundings(
            self.network, Saes(own, HOMES), lambda home: RemoteOwner(self.lines[home]), lambda *_: self.bps, self.now
        )
        return KeyStreams(around)

    def restart(self, own: PartyId) -> None:
        self.streams[own] = self.begin(own)
        self.http[own] = self.listener(own)

    def listener(self, own: PartyId) -> Listener:
        return Listener(Etsi004(self.streams[own]), StreamsForPeers(self.streams[own], Saes(own, HOMES)))

    def now(self) -> float:
        return asyncio.get_running_loop().time() + (self.moved or 0.0)

    def pass_s(self, seconds: float) -> None:
        self.moved = (self.moved or 0.0) + seconds

    def client(self, application: str) -> StreamClient:
        return StreamClient(Line(application, lambda: self.http[HOMES[application]]))

    async def open(self, qos: QoS = QUICK) -> str:
        """Open a stream from A to B, and connect B."""
        opened = await self.a.open_connect(A, B, qos)
        assert opened.status is Status.PEER_NOT_CONNECTED
        assert opened.stream is not None
        connected = await self.b.open_connect(A, B, qos, opened.stream)
        assert connected.status is Status.SUCCESSFUL
        assert connected.qos == opened.qos
        return opened.stream


async def key(client: StreamClient, stream: str, index: int | None = None) -> bytes:
    status, _, secret = await client.get_key(stream, index)
    assert status is Status.SUCCESSFUL
    assert secret is not None
    return secret.reveal()


async def status(client: StreamClient, stream: str, index: int | None = None) -> Status:
    return (await client.get_key(stream, index))[0]


# --- well -------------------------------------------------------------------------------------------------------------


def test_both_ends_take_the_same_chunks_in_any_order_and_each_once() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        ours = [await key(pair.a, stream) for _ in range(3)]
        assert [await key(pair.b, stream, index) for index in (2, 0, 1)] == [ours[2], ours[0], ours[1]]
        theirs = [await key(pair.b, stream) for _ in range(2)]
        assert [await key(pair.a, stream, index) for index in (4, 3)] == theirs[::-1]
        assert len({*ours, *theirs}) == 5
        for client in (pair.a, pair.b):
            for index in range(5):
                assert await status(client, stream, index) is Status.INSUFFICIENT_KEY
        assert len(pair.network.given) == 5
        assert not pair.network.waiting

    run(story())


def test_requests_for_one_chunk_at_the_same_moment_get_it_once() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        for client in (pair.a, pair.b):
            found = await asyncio.gather(*(status(client, stream, 0) for _ in range(8)))
            assert sorted(found) == [Status.SUCCESSFUL, *[Status.INSUFFICIENT_KEY] * 7]
        assert len({await key(pair.a, stream), await key(pair.a, stream)}) == 2

    run(story())


def test_two_applications_at_one_key_manager_have_a_stream_too() -> None:
    async def story() -> None:
        pair = Pair()
        opened = await pair.a.open_connect(A, NEAR, QUICK)
        assert opened.stream is not None
        assert (await pair.near.open_connect(A, NEAR, QUICK, opened.stream)).status is Status.SUCCESSFUL
        assert await key(pair.a, opened.stream) == await key(pair.near, opened.stream)

    run(story())


@pytest.mark.parametrize("bits", [64, 128, 512, 1024])
def test_a_chunk_has_the_size_that_was_agreed(bits: int) -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(bits // 8))
        assert len(await key(pair.a, stream)) * 8 == bits
        assert len(await key(pair.b, stream)) * 8 == bits

    run(story())


def test_both_may_begin_the_same_stream_at_once_and_one_of_them_owns_it() -> None:
    async def story() -> None:
        pair = Pair()
        for slow in ((0.0, 0.0), (0.02, 0.0), (0.0, 0.02), (0.02, 0.02)):
            stream = str(uuid4())
            pair.lines[EAST].slow_s, pair.lines[WEST].slow_s = slow
            opened = await asyncio.gather(
                pair.a.open_connect(A, B, QUICK, stream), pair.b.open_connect(B, A, QUICK, stream)
            )
            assert Status.SUCCESSFUL in {one.status for one in opened}
            assert await key(pair.a, stream) == await key(pair.b, stream)
            owners = [own for own in (EAST, WEST) if stream in pair.streams[own]._owned]
            assert len(owners) == 1

    run(story())


# --- every status -----------------------------------------------------------------------------------------------------


def test_status_3_and_no_key_is_drawn_before_the_peer_is_connected() -> None:
    async def story() -> None:
        pair = Pair()
        opened = await pair.a.open_connect(A, B, QUICK)
        assert opened.stream is not None
        assert await status(pair.a, opened.stream) is Status.NO_PEER
        assert not pair.network.given

    run(story())


@pytest.mark.parametrize("timeout", [0, 150])
def test_status_2_where_too_few_keys_are_ready_and_the_chunk_is_there_later(timeout: int) -> None:
    async def story() -> None:
        pair = Pair(most=1)
        stream = await pair.open(QoS(32, timeout=timeout))
        first = await key(pair.a, stream)
        begun = pair.now()
        assert await status(pair.a, stream) is Status.INSUFFICIENT_KEY
        assert (pair.now() - begun >= 0.1) is bool(timeout)
        assert await status(pair.b, stream, 1) is Status.INSUFFICIENT_KEY
        pair.network.most = 5
        assert await key(pair.b, stream, 1) == await key(pair.a, stream)
        assert await key(pair.b, stream, 0) == first

    run(story())


def test_a_chunk_that_becomes_ready_within_the_timeout_is_waited_for() -> None:
    async def story() -> None:
        pair = Pair(most=0)
        stream = await pair.open(QoS(32, timeout=2000))
        asking = asyncio.create_task(key(pair.b, stream))
        await asyncio.sleep(0.1)
        assert not asking.done()
        pair.network.most = 1
        assert await asking == await key(pair.a, stream)

    run(story())


def test_status_4_where_the_far_key_manager_is_away() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        pair.network.silent = True
        assert await status(pair.a, stream) is Status.NO_QKD_CONNECTION
        pair.lines[EAST].cut = True
        assert await status(pair.b, stream) is Status.NO_QKD_CONNECTION
        opened = await pair.b.open_connect(B, A, QUICK, str(uuid4()))
        assert opened.status is Status.NO_QKD_CONNECTION
        assert not pair.streams[WEST]._owned

    run(story())


def test_status_4_for_a_stream_that_is_not_there_or_of_others() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        for client, name in ((pair.a, str(uuid4())), (pair.near, stream)):
            assert await status(client, name) is Status.NO_QKD_CONNECTION
            assert await client.close(name) is Status.NO_QKD_CONNECTION
        assert await key(pair.a, stream) == await key(pair.b, stream)

    run(story())


def test_status_5_for_a_stream_in_use() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        for client, source, destination in ((pair.a, A, B), (pair.b, A, B), (pair.near, NEAR, A), (pair.a, A, NEAR)):
            opened = await client.open_connect(source, destination, QUICK, stream)
            assert opened.status is Status.STREAM_IN_USE
        assert await key(pair.a, stream) == await key(pair.b, stream)

    run(story())


def test_status_6_where_the_rate_or_a_key_manager_takes_longer_than_the_timeout() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(32, max_bps=256, timeout=60))
        assert await key(pair.a, stream) == await key(pair.b, stream)
        for client in (pair.a, pair.b):
            assert await status(client, stream) is Status.TIMEOUT
        assert len(pair.network.given) == 1, "nothing is drawn before it may be given"
        pair.pass_s(1)
        pair.lines[EAST].slow_s = 1
        assert await status(pair.b, stream) is Status.TIMEOUT
        pair.lines[EAST].slow_s = 0
        assert await key(pair.a, stream) == await key(pair.b, stream)

    run(story())


@pytest.mark.parametrize(
    ("asked", "offer"),
    [
        (QoS(4), {"Key_chunk_size": 8}),
        (QoS(4096), {"Key_chunk_size": 128}),
        (QoS(32, max_bps=10**9), {"Max_bps": FAST_BPS}),
        (QoS(32, max_bps=1000, min_bps=2000), {"Max_bps": 1000, "Min_bps": 1000}),
        (QoS(32, min_bps=FAST_BPS + 1), {"Min_bps": FAST_BPS}),
        (QoS(32, jitter=1), {"Jitter": 100}),
        (QoS(32, timeout=60_000), {"Timeout": 8000}),
        (QoS(32, ttl=10**6), {"TTL": 86_400}),
        (QoS(32, mimetype="text/xml"), {"Metadata_mimetype": "application/json"}),
    ],
)
def test_status_7_has_a_counter_offer_that_is_then_met(asked: QoS, offer: dict[str, Any]) -> None:
    async def story() -> None:
        pair = Pair()
        opened = await pair.a.open_connect(A, B, asked)
        assert (opened.status, opened.stream) == (Status.QOS_NOT_MET, None)
        assert offer.items() <= msgspec.to_builtins(opened.qos).items()
        again = await pair.a.open_connect(A, B, opened.qos)
        assert (again.status, again.qos) == (Status.PEER_NOT_CONNECTED, opened.qos)

    run(story())


def test_what_was_promised_to_one_stream_is_not_promised_to_another() -> None:
    async def story() -> None:
        pair = Pair(bps=1000)
        assert (await pair.a.open_connect(A, B, QoS(32, min_bps=700))).status is Status.PEER_NOT_CONNECTED
        opened = await pair.a.open_connect(A, B, QoS(32, min_bps=700))
        assert (opened.status, opened.qos.min_bps) == (Status.QOS_NOT_MET, 300)
        assert (await pair.a.open_connect(A, NEAR, QoS(32, min_bps=700))).status is Status.PEER_NOT_CONNECTED
        pair.bps = 0
        assert (await pair.a.open_connect(A, B, QoS(32))).status is Status.QOS_NOT_MET

    run(story())


def test_status_8_says_how_much_metadata_there_is_and_gives_no_chunk_away() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        for application in (A, B):
            line = Line(application, lambda home=HOMES[application]: pair.http[home])  # type: ignore[misc]
            ask = form.GetKey(stream, 0, 3)
            small = msgspec.json.decode(await line.ask("POST", form.GET_KEY, ask, 200), type=form.Chunk)
            assert (small.status, small.key) == (Status.METADATA_TOO_SMALL, None)
            ask = form.GetKey(stream, 0, small.metadata_size)
            whole = msgspec.json.decode(await line.ask("POST", form.GET_KEY, ask, 200), type=form.Chunk)
            assert whole.status is Status.SUCCESSFUL
            assert json.loads(whole.metadata or "") == {"index": 0, "key_ID": pair.network.given[0]}

    run(story())


# --- time, kills, ends ------------------------------------------------------------------------------------------------


def test_chunks_older_than_their_ttl_are_erased_at_both_ends_and_the_stream_goes_on_behind_them() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(32, timeout=150, ttl=60))
        for index in range(3):
            await key(pair.a, stream, index)
        assert (await key(pair.b, stream, 0), len(pair.network.waiting)) != (b"", 0)
        pair.pass_s(61)
        assert await status(pair.b, stream, 1) is Status.INSUFFICIENT_KEY
        ours, theirs = await key(pair.a, stream), await key(pair.b, stream)
        assert ours == theirs
        assert len(pair.network.given) == 4
        (owned,) = pair.streams[EAST]._owned.values()
        assert list(owned.drawn) == [3]

    run(story())


def test_an_end_that_took_nothing_goes_on_behind_what_expired() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(32, timeout=150, ttl=60))
        for index in range(3):
            await key(pair.b, stream, index)
        pair.pass_s(61)
        assert await status(pair.a, stream, 1) is Status.INSUFFICIENT_KEY
        assert await key(pair.a, stream) == await key(pair.b, stream)
        assert len(pair.network.given) == 4

    run(story())


def test_close_ends_a_stream_for_the_other_end_too() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        assert await pair.b.close(stream) is Status.SUCCESSFUL
        assert await status(pair.a, stream) is Status.NO_PEER
        assert (await pair.b.open_connect(A, B, QUICK, stream)).status is Status.SUCCESSFUL
        assert await key(pair.a, stream) == await key(pair.b, stream)
        assert await pair.a.close(stream) is Status.SUCCESSFUL
        for client in (pair.a, pair.b):
            assert await status(client, stream) is Status.NO_QKD_CONNECTION

    run(story())


@pytest.mark.parametrize("killed", [EAST, WEST])
def test_a_key_manager_that_is_killed_knows_no_stream_and_no_old_end_meets_a_new_one(killed: PartyId) -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        old = await key(pair.a, stream)
        pair.restart(killed)
        away, other = (pair.a, pair.b) if killed == EAST else (pair.b, pair.a)
        assert await status(away, stream) is Status.NO_QKD_CONNECTION
        if killed == EAST:
            assert (await away.open_connect(A, B, QUICK, stream)).status is Status.PEER_NOT_CONNECTED
            assert await status(other, stream) is Status.NO_QKD_CONNECTION, "it belongs to another life of the stream"
            await other.close(stream)
            assert (await other.open_connect(A, B, QUICK, stream)).status is Status.SUCCESSFUL
        else:
            assert (await away.open_connect(A, B, QUICK, stream)).status is Status.SUCCESSFUL
        ours, theirs = await key(pair.a, stream, 3), await key(pair.b, stream, 3)
        assert ours == theirs != old

    run(story())


def test_a_lost_answer_to_the_peers_key_manager_costs_no_chunk() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        located = await RemoteOwner(pair.lines[EAST]).locate(
            form.Locate(stream, next(iter(pair.streams[EAST]._owned.values())).life, B, 0)
        )
        assert located.status is Status.SUCCESSFUL
        assert await key(pair.b, stream, 0) == await key(pair.a, stream, 0)

    run(story())


# --- hostile ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [MOST_AHEAD, 10**6, form.LARGEST_INDEX])
def test_an_index_far_ahead_draws_nothing(index: int) -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(8, timeout=20))
        assert await status(pair.a, stream, index) in (Status.INSUFFICIENT_KEY, Status.TIMEOUT)
        pair.pass_s(10**9)
        assert await status(pair.b, stream, index) in (Status.INSUFFICIENT_KEY, Status.TIMEOUT)
        assert not pair.network.given

    run(story())


def test_one_end_alone_draws_only_so_many_chunks() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open(QoS(8, timeout=1))
        pair.pass_s(10**6)
        stream_at = pair.streams[EAST]
        (owned,) = stream_at._owned.values()
        owned.qos = msgspec.structs.replace(owned.qos, ttl=10**9)
        for index in range(MOST_AHEAD - 1, MOST_KEPT + MOST_AHEAD, MOST_AHEAD):
            for _ in range(100):  # a busy machine does not draw them all within the millisecond of one request
                await status(pair.a, stream, index)
                if len(pair.network.given) >= min(index + 1, MOST_KEPT):
                    break
        assert len(pair.network.given) == MOST_KEPT

    run(story())


@pytest.mark.parametrize(
    ("peer", "path", "body", "code"),
    [
        (A, form.OPEN_CONNECT, {"Source": B, "Destination": NEAR, "QoS": {"Key_chunk_size": 32}}, 401),
        (B, form.OPEN_CONNECT, {"Source": B, "Destination": A, "QoS": {"Key_chunk_size": 32}}, 401),
        (A, form.OPEN_CONNECT, {"Source": A, "Destination": A, "QoS": {"Key_chunk_size": 32}}, 400),
        (A, form.OPEN_CONNECT, {"Source": A, "Destination": "nobody", "QoS": {"Key_chunk_size": 32}}, 400),
        (A, form.OPEN_CONNECT, {"Source": A, "Destination": B, "QoS": {"Key_chunk_size": 32.5}}, 400),
        (A, form.OPEN_CONNECT, {"Source": A, "Destination": B, "QoS": {"Key_chunk_size": -1}}, 400),
        (A, form.OPEN_CONNECT, {"Source": A, "Destination": B, "QoS": {"Chunk": 32}}, 400),
        (A, form.GET_KEY, {"Key_stream_ID": "../../etc"}, 400),
        (A, form.GET_KEY, {"Key_stream_ID": str(uuid4()), "index": -1}, 400),
        (A, form.GET_KEY, {"Key_stream_ID": str(uuid4()), "index": 2**31}, 400),
        (A, form.CONNECT, {"stream": str(uuid4()), "application": B}, 401),
        ("km/other", form.LOCATE, {"stream": str(uuid4()), "life": "", "application": B, "index": 0}, 401),
        (EAST, form.LEAVE, {"stream": str(uuid4()), "life": "", "application": B}, 401),
        (WEST, form.CONNECT, {"stream": str(uuid4()), "application": "nobody"}, 400),
        (A, "/etsi004/v1/open", {}, 404),
    ],
)
def test_what_is_no_request_or_not_this_peers_is_told_by_http(peer: str, path: str, body: Any, code: int) -> None:
    async def story() -> None:
        reply = await Pair().http[EAST].answer(peer, "POST", path, json.dumps(body).encode())
        assert reply.status == code
        assert json.loads(reply.body)["status"] == code

    run(story())


def test_the_peers_key_manager_learns_of_no_chunk_of_another_stream_or_life() -> None:
    async def story() -> None:
        pair = Pair()
        stream = await pair.open()
        for life in ("", str(uuid4())):
            located = await RemoteOwner(pair.lines[EAST]).locate(form.Locate(stream, life, B, 0))
            assert (located.status, located.key_id) == (Status.NO_QKD_CONNECTION, "")
        assert not pair.network.given

    run(story())


def test_indexes_are_noted_as_given_in_whatever_order() -> None:
    given = GivenOnce()
    for index in (3, 0, 1):
        given.add(index)
    assert (given.next, [index in given for index in range(5)]) == (2, [True, True, False, True, False])
    given.pass_over(3)
    assert (given.next, 2 in given) == (4, True)
