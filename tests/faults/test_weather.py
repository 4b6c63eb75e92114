"""Storms: what they decide is decided by the seed, and what they do to connections leaves no committed word untold."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.faults.proxy import HOST, FaultProxy
from tests.faults.target import Target, connected
from tests.faults.weather import (
    Calm,
    Delay,
    Drop,
    Fault,
    HalfOpen,
    LoseAnswer,
    Moment,
    Refuse,
    Stall,
    Storm,
    Towards,
    Trickle,
    Truncate,
)

ACCEPTING: dict[Fault, float] = {Drop(): 0.1, HalfOpen(): 0.05}
EXCHANGING: dict[Fault, float] = {
    Delay(0.001, 0.004): 0.1,
    Trickle(5, 0.0005): 0.1,
    Drop(): 0.05,
    Stall(Towards.CLIENT, 4): 0.05,
    Truncate(Towards.TARGET, 3): 0.05,
    Truncate(Towards.CLIENT, 3): 0.05,
    LoseAnswer(): 0.1,
}


def openings(storm: Storm, count: int) -> list[Fault]:
    return [storm.meets(Moment(number, None, 0.0)) for number in range(count)]


def test_a_storm_is_its_seed() -> None:
    assert openings(Storm(1, ACCEPTING), 200) == openings(Storm(1, ACCEPTING), 200)
    assert openings(Storm(1, ACCEPTING), 200) != openings(Storm(2, ACCEPTING), 200)


def test_a_storm_keeps_its_odds() -> None:
    counted = Counter(openings(Storm(1, ACCEPTING), 4000))
    assert set(counted) == {Calm(), Drop(), HalfOpen()}
    assert 320 < counted[Drop()] < 480
    assert 140 < counted[HalfOpen()] < 260


def test_what_meets_a_connection_does_not_depend_on_what_others_met_before() -> None:
    storm = Storm(7, ACCEPTING, EXCHANGING)
    moments = [Moment(connection, exchange, 0.0) for connection in range(20) for exchange in range(5)]
    forwards = [storm.meets(moment) for moment in moments]
    assert [storm.meets(moment) for moment in reversed(moments)] == list(reversed(forwards))


def test_some_periods_are_calm_from_their_beginning_to_their_end() -> None:
    storm = Storm(3, {Drop(): 1.0}, period=2.0, stormy=0.5)
    assert 70 < sum(storm.is_stormy(2.0 * period) for period in range(200)) < 130
    for period in range(20):
        met = {storm.meets(Moment(n, None, 2.0 * period + at)) for n, at in enumerate((0.0, 0.7, 1.9))}
        assert met == ({Drop()} if storm.is_stormy(2.0 * period) else {Calm()})


@pytest.mark.parametrize(
    ("accepting", "exchanging", "complaint"),
    [
        ({Drop(): 0.6, HalfOpen(): 0.6}, {}, "sum up to 1"),
        ({}, {Drop(): -0.1}, "are positive"),
        ({Delay(1.0): 0.1}, {}, "Delay.* cannot happen there"),
        ({}, {Refuse(): 0.1}, "Refuse.* cannot happen there"),
    ],
)
def test_a_storm_that_cannot_be_is_refused(
    accepting: dict[Fault, float], exchanging: dict[Fault, float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Storm(0, accepting, exchanging)


def test_in_a_storm_every_fault_happens_and_every_answer_was_committed() -> None:
    answers: list[bytes] = []

    async def converse(proxy: FaultProxy, number: int) -> None:
        with suppress(ConnectionError):
            async with connected(proxy) as client:
                for turn in range(3):
                    request = b"request %d of %d\n" % (turn, number)
                    async with asyncio.timeout(1):
                        answer = await client.ask(request)
                    if answer != b"answer to " + request:
                        return
                    answers.append(request)

    async def patient(proxy: FaultProxy, number: int) -> None:
        with suppress(TimeoutError):
            await converse(proxy, number)

    async def story() -> None:
        async with Target() as target, FaultProxy(target.address, Storm(11, ACCEPTING, EXCHANGING)) as proxy:
            await asyncio.gather(*(patient(proxy, number) for number in range(150)))
        happened = proxy.happened
        assert set(happened) == {Delay, Trickle, Drop, HalfOpen, Stall, Truncate, LoseAnswer}
        assert set(answers) <= set(target.committed)
        assert len(set(target.committed)) == len(target.committed)
        untold = len(target.committed) - len(answers)
        assert untold >= happened[LoseAnswer] > 0

    asyncio.run(story())


# --- what the bytes are does not matter -------------------------------------------------------------------------------


def certificate(folder: Path) -> Path:
    """A key and its own certificate in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(HOST))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    clear = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "target.pem"
    file.write_bytes(clear + signed.public_bytes(Encoding.PEM))
    return file


def test_over_tls_the_answer_is_lost_and_not_the_handshake(tmp_path: Path) -> None:
    file = certificate(tmp_path)
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=file)
    serving.load_cert_chain(file)

    async def story() -> None:
        async with Target(serving) as target, FaultProxy(target.address, LoseAnswer(spare=1)) as proxy:
            async with connected(proxy, asking) as client:
                assert await client.ask(b"one\n") == b""
            assert target.committed == target.answered == [b"one\n"]
            assert proxy.happened == {LoseAnswer: 1}

    asyncio.run(story())
