"""No secret shows itself: every dataclass of the package is filled with real secrets and printed in every way."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import qsotn.crypto
from qsotn.crypto import certificates, derivation, envelope, keyfile, paths, session, suites
from qsotn.crypto.identity import Identity, certificate_request, verify_certificate, verify_request
from qsotn.crypto.revocation_lists import issue_revocation_list, read_revocation_list
from qsotn.crypto.transport_certificates import issue_transport, verify_transport
from qsotn.crypto.vault import Vault
from qsotn.domain import Entropy, Secret
from qsotn.errors import QsotnError

Draw = Callable[[str], Entropy]


def dataclasses_of_the_package() -> set[type]:
    found = set()
    for module in pkgutil.iter_modules(qsotn.crypto.__path__, "qsotn.crypto."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.name:
                found.add(value)
    return found


def secrets_in(value: object) -> Iterator[bytes]:
    """Every secret that can be reached from a value, in clear."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif hasattr(value, "private_bytes_raw"):
        yield value.private_bytes_raw()
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from secrets_in(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_in(item)


def forms(secret: bytes) -> Iterator[str]:
    """How eight bytes of a secret would look if they were printed."""
    for piece in (secret[:8], secret[-8:]):
        yield piece.hex()
        yield repr(piece)[2:-1]
        yield repr(bytearray(piece))[12:-2]
        yield str(list(piece))[1:-1]


def assert_blind(text: str, secrets: list[bytes]) -> None:
    for secret in secrets:
        assert len(secret) >= 32
        assert not any(form in text for form in forms(secret))


@pytest.fixture(scope="module")
def examples(world: Any, draw: Draw) -> list[object]:
    request = keyfile.request_keys(suites.suite(1), draw("request"))
    entries = [Secret(draw(f"entry {index}")(32)) for index in range(3)]
    closed = keyfile.close_key_file(suites.suite(1), request.public, bytes(48), entries, None, b"h", draw("close"))
    opened = keyfile.open_key_file(
        suites.suite(1), request, bytes(48), closed.enc, closed.ciphertext, closed.confirmation, None, b"h"
    )
    qssp = world.qssp[1]
    connection = issue_transport(
        world.operator, qssp.party, qssp.signing_key.public_key().public_bytes_raw(), world.now, world.ends
    )
    revocations = issue_revocation_list(world.operator, {1: world.now}, 1, world.now, world.ends)
    message = envelope.sign(qssp, b"context", entries[0].reveal())  # a payload may be one, too
    return [
        *(identity for identity in (*world.qssp.values(), *world.cpe.values())),
        world.operator,
        world.trust,
        request,
        closed,
        closed.keys,
        opened,
        *suites.SUITES.values(),
        suites.ML_DSA_65,
        suites.SUITES[1].kem,
        verify_certificate(qssp.chain, world.trust, world.now),
        verify_request(certificate_request(qssp)),
        verify_transport((connection,), world.trust, {}, world.now),
        paths.Window(qssp.party, world.now, world.ends),
        read_revocation_list(revocations, world.operator.certificate),
        envelope.open_signed(message, b"context", lambda _: qssp.signing_key.public_key()),
        envelope._parse(message),
        certificates.HpkeKey(suite=1, public_key=qssp.kem.public),
    ]


def test_there_is_an_example_of_every_dataclass(examples: list[object]) -> None:
    assert {type(example) for example in examples} == dataclasses_of_the_package()


def test_no_dataclass_prints_a_secret(examples: list[object]) -> None:
    for example in examples:
        secrets = list(secrets_in(example))
        if isinstance(example, envelope.Signed | envelope._Parts):
            secrets.append(example.payload)
        assert_blind(f"{example!r} {example!s} {example}", secrets)
        assert_blind(f"{[example]} {{example}}", secrets)


def test_there_was_something_to_find(examples: list[object]) -> None:
    """The search itself finds a secret that is shown."""
    secrets = [secret for example in examples for secret in secrets_in(example)]
    assert len(secrets) > 20
    for shown in (secrets[0].hex(), repr(secrets[0]), repr(bytearray(secrets[0])), str(list(secrets[0]))):
        with pytest.raises(AssertionError):
            assert_blind(shown, secrets[:1])


def refusals(world: Any, draw: Draw) -> Iterator[tuple[Callable[[], object], list[bytes]]]:
    """Calls that fail while they hold secrets, and those secrets."""
    entry, key, kek = (Secret(draw(name)(32)) for name in ("entry", "key", "kek"))
    held = [entry.reveal(), key.reveal(), kek.reveal()]
    vault = Vault(kek, draw("nonces"))
    wrapped, blob = session.wrap_session_keys(entry, b"c", [key]), vault.wrap(key, b"c")
    row, request = suites.suite(1), keyfile.request_keys(suites.suite(1), draw("request"))
    closed = keyfile.close_key_file(row, request.public, bytes(48), [entry, key], None, b"h", draw("close"))
    arguments = (row, request, bytes(48), closed.enc, closed.ciphertext, closed.confirmation)
    file_secrets = [*held, *secrets_in(closed), request.seed.reveal()]
    identity = world.qssp[1].to_secret()
    yield lambda: session.unwrap_session_keys(entry, b"other", wrapped, 1), held
    yield lambda: session.wrap_session_keys(entry, b"c", [Secret(key.reveal() + b"x")]), held
    yield lambda: session.verify_possession(key, b"other", session.possession_proof(key, b"c")), held
    yield lambda: vault.unwrap(blob, b"other"), held
    yield lambda: keyfile.open_key_file(*arguments, key, b"h"), file_secrets
    yield lambda: keyfile.open_key_file(*arguments, None, b"other"), file_secrets
    yield lambda: envelope.unseal(row, request, closed.enc, b"other"), file_secrets
    yield lambda: row.kem_key(Secret(entry.reveal() * 2)), held
    yield lambda: row.signing_key(Secret(entry.reveal() * 2)), held
    yield lambda: Vault(Secret(kek.reveal() * 2), draw("x")), held
    yield lambda: derivation.verify_mac(key, b"tag", "it", b"c"), held
    yield lambda: Identity.from_secret(Secret(identity.reveal() + b"x")), [*secrets_in(world.qssp[1])]
    yield lambda: Identity.from_secret(Secret(identity.reveal()[:-1])), [*secrets_in(world.qssp[1])]
    yield lambda: world.operator.from_secret(identity, draw("x")), [*secrets_in(world.qssp[1])]


def test_no_exception_carries_a_secret(world: Any, draw: Draw) -> None:
    seen = 0
    for call, secrets in refusals(world, draw):
        with pytest.raises((QsotnError, ValueError)) as caught:
            call()
        assert_blind("".join(traceback.format_exception(caught.value)) + repr(caught.value), secrets)
        seen += 1
    assert seen == 14
