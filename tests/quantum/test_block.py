"""The story of a block, from light to two equal keys, and what each party can and cannot know of the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from qsotn.domain import Direction, Entropy, Secret
from qsotn.errors import KeyReuse, KeyShortage
from qsotn.quantum.alice import Alice
from qsotn.quantum.bob import Bob
from qsotn.quantum.distillation import AUTHENTICATION_BITS, Block
from qsotn.quantum.failures import ExchangeCutShort, NoSecrecyLeft, TooFewDetections, TooManyErrors
from qsotn.quantum.finite_key import Secrecy, secret_bits
from qsotn.quantum.ledger import BlockLedger, DistilledBlock
from qsotn.quantum.link import CHUNK_PULSES, converse, distil_block, exchange_light
from qsotn.quantum.messages import Parities, ParityQuery, Verification, decode, unpack_indices
from qsotn.quantum.optics import Bits, Clicks, QuantumChannel, intercept_resend
from qsotn.quantum.parameters import METRO, OpticalLink, Parameters

if TYPE_CHECKING:
    from tests.quantum.conftest import Distil


EntropyOf = Callable[[int], Entropy]
AUTHENTICATION = bytes(range(64))


def key_bits(block: DistilledBlock) -> Bits:
    return np.unpackbits(np.frombuffer(block.key.reveal(), np.uint8))


@pytest.fixture(scope="module")
def metro() -> tuple[DistilledBlock, DistilledBlock]:
    """One block of the default link, distilled once for the tests that look at a full one."""
    entropies = [np.random.Generator(np.random.PCG64(seed)).bytes for seed in (1, 2)]
    return distil_block(METRO, "l", 1, entropies[0], entropies[1], 3, (Secret(AUTHENTICATION), Secret(AUTHENTICATION)))


def test_alice_and_bob_end_with_equal_keys_and_equal_books(distil: Distil) -> None:
    alice, bob = distil()
    assert alice.key == bob.key
    assert alice.next_authentication == bob.next_authentication
    assert alice.ledger == bob.ledger
    assert alice is not bob


def test_the_default_link_gives_eighty_thousand_net_bits_a_block(metro: tuple[DistilledBlock, DistilledBlock]) -> None:
    alice, bob = metro
    assert alice.key == bob.key
    assert alice.ledger.net_bits == 8 * len(alice.key) >= 80_000
    assert alice.ledger.link_seconds == pytest.approx(0.0629, rel=1e-3)
    assert alice.ledger.net_bits_per_second > 1e6


def test_the_books_add_up(metro: tuple[DistilledBlock, DistilledBlock]) -> None:
    ledger = metro[0].ledger
    assert ledger.pulses == METRO.protocol.pulses_per_block
    assert ledger.authentication_bits == AUTHENTICATION_BITS == 8 * len(metro[0].next_authentication)
    assert 0 <= ledger.secret_bits - ledger.authentication_bits - ledger.net_bits < 8
    assert ledger.key_basis_bits / ledger.detections == pytest.approx(0.75**2, rel=0.01)
    assert ledger.test_basis_bits / ledger.detections == pytest.approx(0.25**2, rel=0.03)
    mean = [1 - math.exp(-METRO.optics.transmittance * k) for k in METRO.protocol.intensities]
    gain = sum(p * q for p, q in zip(METRO.protocol.intensity_probabilities, mean, strict=True))
    assert ledger.detections / ledger.pulses == pytest.approx(gain, rel=0.01)
    assert ledger.error_rate == pytest.approx(0.005, rel=0.3)
    assert ledger.epsilon_authentication < 1e-20
    assert msgspec.json.decode(msgspec.json.encode(ledger), type=BlockLedger) == ledger


def test_the_length_pays_for_the_leakage_of_both_directions(metro: tuple[DistilledBlock, DistilledBlock]) -> None:
    ledger = metro[0].ledger
    secrecy = Secrecy(ledger.vacuum_events, ledger.single_photon_events, ledger.phase_error_rate)
    leaked = ledger.leaked_bits_a_to_b + ledger.leaked_bits_b_to_a
    assert ledger.secret_bits == secret_bits(secrecy, METRO.protocol, ledger.key_basis_bits, leaked)


def test_the_bounds_hold_against_the_single_photons_that_really_arrived(metro: tuple[DistilledBlock, ...]) -> None:
    """Expected single-photon detections in X: N·qX²·τ1·η. The bound is below, and no more than a fifth below."""
    ledger, protocol = metro[0].ledger, METRO.protocol
    tau = sum(p * math.exp(-k) * k for k, p in zip(protocol.intensities, protocol.intensity_probabilities, strict=True))
    truth = ledger.pulses * protocol.key_basis_probability**2 * tau * METRO.optics.transmittance
    assert 0.8 * truth < ledger.single_photon_events < truth
    assert 0.005 < ledger.phase_error_rate < 0.06


def test_the_key_passes_the_simplest_tests_of_randomness(metro: tuple[DistilledBlock, DistilledBlock]) -> None:
    """NIST SP 800-22, sections 2.1 (monobit) and 2.3 (runs); a bias that matters is far below one in ten thousand."""
    bits = key_bits(metro[0]).astype(np.int64)
    n, ones = len(bits), bits.mean()
    monobit = math.erfc(abs(2 * bits.sum() - n) / math.sqrt(n) / math.sqrt(2))
    runs = 1 + np.count_nonzero(np.diff(bits))
    deviation = abs(runs - 2 * n * ones * (1 - ones)) / (2 * math.sqrt(2 * n) * ones * (1 - ones))
    assert monobit > 1e-4
    assert math.erfc(deviation) > 1e-4


def test_the_leakage_in_the_books_is_what_crossed_the_channel(distil: Distil) -> None:
    asked = answered = verification = 0

    def listen(_direction: Direction, data: bytes) -> tuple[bytes]:
        nonlocal asked, answered, verification
        match decode(data):
            case ParityQuery(_, blocks):
                asked += len(unpack_indices(blocks))
            case Parities(bits):
                answered += len(bits)
            case Verification(_, value):
                verification = len(value)
        return (data,)

    ledger = distil(channel=listen)[0].ledger
    assert ledger.leaked_bits_a_to_b == ledger.leaked_bits_b_to_a == asked > 0
    assert asked <= 8 * answered  # parities travel eight to a byte
    assert verification == -(-ledger.verification_bits // 8)


def test_the_same_seeds_give_the_same_keys_and_others_give_others(distil: Distil) -> None:
    first, again = distil()[0], distil()[0]
    assert first.key == again.key
    assert first.ledger == again.ledger
    assert distil(nature=2)[0].key.reveal()[:32] != first.key.reveal()[:32]
    assert distil(number=2)[0].key.reveal()[:32] != first.key.reveal()[:32]


def test_each_block_authenticates_the_next(distil: Distil) -> None:
    alice, bob = distil(number=1)
    third = distil(number=2, authentication=(alice.next_authentication, bob.next_authentication))
    assert third[0].key == third[1].key
    with pytest.raises(KeyReuse):
        distil(number=3, authentication=(alice.next_authentication, bob.next_authentication))


def test_bobs_key_follows_from_his_clicks_and_the_bytes_he_heard(short: Parameters, entropy_of: EntropyOf) -> None:
    """Replay Bob alone: no Alice, no light, only what reached him. If anything else had, the key would differ."""
    block = Block(short, "l", 1)
    channel = QuantumChannel(short.optics, short.protocol.intensities, 5)
    clicks: list[Clicks] = []

    def measure(bases: Bits) -> Clicks:
        clicks.append(channel.measure(bases))
        return clicks[-1]

    alice = Alice(block, entropy_of(1), Secret(AUTHENTICATION), channel.emit)
    bob = Bob(block, entropy_of(2), Secret(AUTHENTICATION), measure)
    exchange_light(alice, bob, short.protocol.pulses_per_block, lambda _stage, _fraction: None)
    to_bob: list[bytes] = []
    to_alice: list[bytes] = []

    def record(direction: Direction, data: bytes) -> tuple[bytes]:
        assert type(data) is bytes
        (to_bob if direction is Direction.A_TO_B else to_alice).append(data)
        return (data,)

    converse(alice, bob, record)

    replayed = iter(clicks)
    lonely = Bob(block, entropy_of(2), Secret(AUTHENTICATION), lambda _bases: next(replayed))
    for _ in clicks:
        lonely.measure_pulses(CHUNK_PULSES)
    said = lonely.start() + [answer for data in to_bob for answer in lonely.receive(data)]
    assert said == to_alice
    assert lonely.distilled.key == bob.distilled.key == alice.distilled.key

    alone = Alice(block, entropy_of(1), Secret(AUTHENTICATION), lambda _intensity, _basis, _bit: None)
    for _ in clicks:
        alone.send_pulses(CHUNK_PULSES)
    assert [answer for data in to_alice for answer in alone.receive(data)] == to_bob
    assert alone.distilled.key == alice.distilled.key


def test_no_window_of_the_key_crosses_the_channel(distil: Distil) -> None:
    heard = bytearray()

    def listen(_direction: Direction, data: bytes) -> tuple[bytes]:
        heard.extend(data)
        return (data,)

    key = distil(channel=listen)[0].key.reveal()
    assert not any(key[start : start + 8] in heard for start in range(0, len(key) - 7, 8))


def test_representations_and_errors_show_no_bits(distil: Distil) -> None:
    alice, _ = distil()
    assert "Secret(" in repr(alice)
    assert alice.key.reveal().hex()[:16] not in repr(alice)


@pytest.mark.parametrize(
    ("fraction", "failure", "said"),
    [(1.0, TooManyErrors, "the test basis shows 2[45]"), (0.25, NoSecrecyLeft, "phase error rate")],
)
def test_an_eavesdropper_on_the_light_leaves_no_key(
    distil: Distil, fraction: float, failure: type[KeyShortage], said: str
) -> None:
    with pytest.raises(failure, match=said):
        distil(attack=intercept_resend(fraction))


def test_a_little_eavesdropping_shortens_the_key(short: Parameters, distil: Distil) -> None:
    longer = replace(short, protocol=replace(short.protocol, pulses_per_block=1 << 20))
    quiet, disturbed = distil(longer)[0].ledger, distil(longer, attack=intercept_resend(0.02))[0].ledger
    assert disturbed.error_rate > quiet.error_rate
    assert 0 < disturbed.net_bits < 0.9 * quiet.net_bits


@pytest.mark.parametrize(
    ("link", "failure"),
    [
        (OpticalLink(length_km=200.0, dark_count_probability=0.0), TooFewDetections),
        (OpticalLink(length_km=500.0, dark_count_probability=0.0), TooFewDetections),
        (OpticalLink(length_km=120.0, dark_count_probability=1e-2), TooManyErrors),
        (OpticalLink(misalignment=0.12), TooManyErrors),
        (OpticalLink(), NoSecrecyLeft),  # a good link, but a block that is too short
    ],
)
def test_a_link_that_gives_no_key_says_why(
    short: Parameters, distil: Distil, link: OpticalLink, failure: type[KeyShortage]
) -> None:
    with pytest.raises(failure):
        distil(replace(short, optics=link))


def test_a_failed_block_has_spent_its_authentication_key(short: Parameters, distil: Distil) -> None:
    keys = (Secret(AUTHENTICATION), Secret(AUTHENTICATION))
    with pytest.raises(KeyShortage):
        distil(replace(short, optics=OpticalLink(length_km=500.0)), authentication=keys)
    with pytest.raises(KeyReuse):
        distil(authentication=keys)


def test_before_the_last_tag_there_is_no_key(short: Parameters, entropy_of: EntropyOf) -> None:
    block = Block(short, "l", 1)
    alice = Alice(block, entropy_of(1), Secret(AUTHENTICATION), lambda _intensity, _basis, _bit: None)
    bob = Bob(block, entropy_of(2), Secret(AUTHENTICATION), lambda _bases: pytest.fail("no light"))
    for party in (alice, bob):
        with pytest.raises(ExchangeCutShort, match="block 1 of l was not finished"):
            _ = party.distilled


def test_progress_runs_through_both_stages(distil: Distil) -> None:
    seen: list[tuple[str, float]] = []
    distil(progress=lambda stage, fraction: seen.append((stage, fraction)))
    assert seen == [
        ("photons", 0.0),
        ("photons", 0.5),
        ("photons", 1.0),
        ("post-processing", 0.0),
        ("post-processing", 1.0),
    ]
