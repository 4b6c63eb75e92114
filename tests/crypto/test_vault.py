"""Secrets at rest: each opens at its own place alone."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, Secret
from qsotn.errors import StoreError

Draw = Callable[[str], Entropy]
KEK = Secret(bytes(range(32)))
SECRET = Secret(b"a private key of any length")


def test_a_secret_comes_back_and_no_two_blobs_are_alike(draw: Draw) -> None:
    vault = Vault(KEK, draw("nonces"))
    first, second = vault.wrap(SECRET, b"row 1"), vault.wrap(SECRET, b"row 1")
    assert first != second
    assert vault.unwrap(first, b"row 1") == vault.unwrap(second, b"row 1") == SECRET
    assert Vault(KEK, draw("other nonces")).unwrap(first, b"row 1") == SECRET
    assert SECRET.reveal() not in first


def test_the_nonce_is_drawn_anew_for_each_secret() -> None:
    drawn: list[int] = []

    def entropy(size: int) -> bytes:
        drawn.append(size)
        return bytes([len(drawn)]) * size

    vault = Vault(KEK, entropy)
    blobs = [vault.wrap(SECRET, b"row") for _ in range(3)]
    assert drawn == [12, 12, 12]
    assert [blob[1:13] for blob in blobs] == [bytes([index]) * 12 for index in (1, 2, 3)]


def test_the_blob_is_byte_for_byte_the_described_one(draw: Draw) -> None:
    prk = hmac.new(b"qsotn/v1/vault/extract", KEK.reveal(), "sha384").digest()
    key, nonce = hmac.new(prk, b"qsotn/v1/vault/wrap\x01", "sha384").digest()[:32], draw("nonces")(12)
    expected = b"\x01" + nonce + AESGCM(key).encrypt(nonce, SECRET.reveal(), b"\x01row 1")
    assert Vault(KEK, draw("nonces")).wrap(SECRET, b"row 1") == expected


def test_another_key_place_or_byte_opens_nothing(draw: Draw) -> None:
    vault = Vault(KEK, draw("nonces"))
    blob = vault.wrap(SECRET, b"row 1")
    with pytest.raises(StoreError, match="does not open"):
        vault.unwrap(blob, b"row 2")
    with pytest.raises(StoreError, match="does not open"):
        Vault(Secret(bytes(32)), draw("x")).unwrap(blob, b"row 1")
    for place in range(len(blob)):
        with pytest.raises(StoreError):
            vault.unwrap(blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :], b"row 1")
    for size in range(len(blob)):
        with pytest.raises(StoreError):
            vault.unwrap(blob[:size], b"row 1")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_encryption_key_has_256_bits(size: int, draw: Draw) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(Secret(bytes(size)), draw("x"))


def test_a_vault_shows_nothing(draw: Draw) -> None:
    vault = Vault(KEK, draw("x"))
    assert KEK.reveal().hex() not in repr(vault) + str(vault)
    assert not hasattr(vault, "__dict__")
