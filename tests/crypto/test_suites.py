"""Suites: numbers, keys as bytes and back, and bytes that are no key."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qsotn.crypto.suites import SUITES, signing_seed, suite
from qsotn.domain import Entropy, Secret
from qsotn.errors import MalformedMessage

Draw = Callable[[str], Entropy]

NUMBERS = sorted(SUITES)


@pytest.mark.parametrize(
    ("number", "kem", "signature", "algorithm"),
    [
        (1, "X-Wing", "ML-DSA-65", -49),
        (2, "MLKEM1024-P384", "ML-DSA-87", -50),
        (3, "ML-KEM-1024", "ML-DSA-87", -50),
    ],
)
def test_the_table(number: int, kem: str, signature: str, algorithm: int) -> None:
    row = suite(number)
    assert (row.number, row.kem.name, row.signature.name, row.signature.cose_algorithm) == (
        number,
        kem,
        signature,
        algorithm,
    )


@pytest.mark.parametrize("number", [0, 4, -1, True, "1", 1.0, None, [1]])
def test_a_suite_that_does_not_exist_is_malformed(number: object) -> None:
    with pytest.raises(MalformedMessage, match="does not exist"):
        suite(number)


@pytest.mark.parametrize("number", NUMBERS)
def test_keys_survive_the_way_to_bytes_and_back(number: int, draw: Draw) -> None:
    row = suite(number)
    signing = row.generate_signing_key(draw("signing"))
    again = row.signing_key(signing_seed(signing))
    public = again.public_key().public_bytes_raw()
    row.verification_key(public).verify(signing.sign(b"data"), b"data")
    pair = row.generate_kem_key(draw("kem"))
    assert row.kem_key(pair.seed) == pair
    assert row.kem_key(pair.seed).public == pair.public


@pytest.mark.parametrize("number", NUMBERS)
def test_the_same_entropy_draws_the_same_keys_and_other_entropy_others(number: int, draw: Draw) -> None:
    row = suite(number)
    assert row.generate_kem_key(draw("a")) == row.generate_kem_key(draw("a"))
    assert row.generate_kem_key(draw("a")).public != row.generate_kem_key(draw("b")).public


@pytest.mark.parametrize("number", NUMBERS)
def test_bytes_that_are_no_public_key_are_malformed(number: int, draw: Draw) -> None:
    row = suite(number)
    signing, kem = row.generate_signing_key(draw("s")).public_key().public_bytes_raw(), row.generate_kem_key(draw("k"))
    for wrong in (b"", signing[:-1], signing + b"\x00"):
        with pytest.raises(MalformedMessage, match="no ML-DSA"):
            row.verification_key(wrong)
    # FIPS 203, section 7.2: an encapsulation key whose coefficients are not reduced modulo q is refused.
    for wrong in (b"", kem.public[:-1], kem.public + b"\x00", b"\xff" * len(kem.public)):
        with pytest.raises(MalformedMessage, match="public key"):
            row.kem_public_key(wrong)


def test_a_p384_point_has_one_encoding_and_lies_on_the_curve(draw: Draw) -> None:
    row = suite(2)
    public = row.generate_kem_key(draw("k")).public
    compressed = public[:1568] + bytes([2 + public[-1] % 2]) + public[1569 : 1569 + 48]
    elsewhere = public[:-1] + bytes([public[-1] ^ 1])
    for wrong in (compressed, elsewhere, public[:1568] + b"\x00"):
        with pytest.raises(MalformedMessage, match="public key"):
            row.kem_public_key(wrong)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_seed_of_another_length_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        suite(number).kem_key(Secret(bytes(33)))
    with pytest.raises(ValueError, match="seed"):
        suite(number).signing_key(Secret(bytes(31)))
