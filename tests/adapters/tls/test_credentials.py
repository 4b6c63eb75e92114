"""Certificates, keys, roots and lists in files: what is taken over, what is kept out, and what is said about it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from tests.adapters.tls.parties import (
    CPE,
    DAY,
    KM,
    NOW,
    QSSP,
    SECOND,
    Process,
    Province,
    key_pem,
    number_of,
    pem,
    seeded,
    write_key,
    write_pair,
)

from qsotn.adapters.tls import openssl
from qsotn.adapters.tls.credentials import Credentials
from qsotn.adapters.tls.trust import Trust, TrustFiles
from qsotn.crypto.identity import CertificateAuthority, Identity
from qsotn.crypto.revocation_lists import issue_revocation_list
from qsotn.errors import BadProof, QsotnError, UsageError

Damage = Callable[[Process, Province], None]


def again(process: Process) -> Credentials:
    """What a new start of the process makes of its files."""
    return Credentials(
        process.party, process.folder / "chain.pem", process.folder / "key.pem", process.trust, process.failures.append
    )


def test_a_certificate_is_due_for_renewal_when_two_thirds_of_it_are_gone(province: Province) -> None:
    process = province.process(QSSP, days=30)
    assert process.credentials.pair.itself.party == QSSP
    assert process.credentials.renew_at() == NOW - DAY + 20 * DAY


@pytest.mark.parametrize("key_first", [True, False])
def test_a_renewed_pair_is_taken_over_once_both_halves_are_there(province: Province, key_first: bool) -> None:
    process = province.process(QSSP)
    old, key = process.credentials.pair, province.key()
    certificate = province.certificate(QSSP, key, NOW)

    def write(key_now: bool) -> None:
        if key_now:
            write_key(process.folder / "key.pem", key)
        else:
            (process.folder / "chain.pem").write_bytes(pem(certificate))

    assert not process.credentials.reload_if_changed()
    write(key_first)
    assert not process.credentials.reload_if_changed()
    assert process.credentials.pair is old
    assert not process.credentials.reload_if_changed()
    (failure,) = process.failures
    assert "is not that of the certificate" in failure
    assert str(process.folder / "chain.pem") in failure
    write(not key_first)
    assert process.credentials.reload_if_changed()
    assert process.credentials.pair.itself.chain == (certificate,)
    assert process.credentials.renew_at() == NOW + 20 * DAY
    assert len(process.failures) == 1


def test_a_file_that_is_away_for_a_moment_changes_nothing(province: Province) -> None:
    process = province.process(QSSP)
    old, chain = process.credentials.pair, process.folder / "chain.pem"
    chain.rename(process.folder / "aside")
    assert not process.credentials.reload_if_changed()
    assert process.credentials.pair is old
    assert "chain.pem cannot be read: No such file" in process.failures[0]
    (process.folder / "aside").rename(chain)
    assert process.credentials.reload_if_changed()


def cut(name: str, length: int) -> Damage:
    def write(process: Process, _: Province) -> None:
        path = process.folder / name
        path.write_bytes(path.read_bytes()[:length])

    return write


def a_classical_key(process: Process, _: Province) -> None:
    write_key(process.folder / "key.pem", ec.generate_private_key(ec.SECP384R1()))


def a_key_under_a_passphrase(process: Process, province: Province) -> None:
    encrypted = province.key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    (process.folder / "key.pem").write_bytes(encrypted)


def a_key_for_the_group_to_read(process: Process, _: Province) -> None:
    (process.folder / "key.pem").chmod(0o640)


def the_pair_of_another_party(process: Process, province: Province) -> None:
    key = province.key()
    write_pair(process.folder, [province.certificate(KM, key)], key)


def an_expired_pair(process: Process, province: Province) -> None:
    province.renew(process, NOW - 30 * DAY - SECOND, 30)


def a_pair_of_an_unknown_root(process: Process, province: Province) -> None:
    stranger = Province(process.folder)
    stranger.operator = CertificateAuthority.create("operator", seeded("stranger"), NOW - DAY)
    stranger.renew(process)


def the_pair_of_the_identity(process: Process, province: Province) -> None:
    identity = Identity.create(QSSP, province.operator, NOW, NOW + DAY, province.entropy)
    write_pair(process.folder, identity.chain, identity.signing_key)


DAMAGE: dict[str, tuple[Damage, str]] = {
    "empty chain": (cut("chain.pem", 0), "no certificate chain in PEM"),
    "half a chain": (cut("chain.pem", 1000), "no certificate chain in PEM"),
    "no key": (cut("key.pem", 0), "no ML-DSA private key"),
    "half a key": (cut("key.pem", 60), "no ML-DSA private key"),
    "a classical key": (a_classical_key, "no ML-DSA private key"),
    "a key under a passphrase": (a_key_under_a_passphrase, "without a passphrase"),
    "a key for the group to read": (a_key_for_the_group_to_read, "expected a private key with mode 0600"),
    "the pair of another party": (the_pair_of_another_party, "is the certificate of km/jinan: expected qssp/jinan"),
    "an expired pair": (an_expired_pair, "has expired"),
    "a pair of an unknown root": (a_pair_of_an_unknown_root, "its root is unknown here"),
    "the pair of the identity": (the_pair_of_the_identity, "is the one that signs its messages"),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGE.values(), ids=DAMAGE)
def test_a_pair_that_no_peer_would_take_is_kept_out(province: Province, damage: Damage, words: str) -> None:
    process = province.process(QSSP)
    old = process.credentials.pair
    damage(process, province)
    os.utime(process.folder / "key.pem", ns=(1, 1))  # a changed mode alone is not seen
    assert not process.credentials.reload_if_changed()
    assert process.credentials.pair is old
    (failure,) = process.failures
    assert words in failure
    with pytest.raises(QsotnError, match=words):
        again(process)


def test_no_refusal_of_a_key_shows_it(province: Province) -> None:
    process = province.process(QSSP)
    key = province.key()
    write_key(process.folder / "key.pem", key)
    with pytest.raises(UsageError) as caught:
        again(process)
    shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r} {process.credentials.pair!r}"
    for line in key_pem(key).decode().splitlines()[1:-1]:
        assert line not in shown


def test_the_library_itself_refuses_a_key_that_does_not_fit(province: Province, tmp_path: Path) -> None:
    """The last guard, for files that change between two reads."""
    key = province.key()
    path = tmp_path / "another.pem"
    write_key(path, province.key())
    chain = [x509.load_der_x509_certificate(province.certificate(QSSP, key))]
    with pytest.raises(UsageError, match="cannot be used"):
        openssl.context(chain, path, server=True)


# --- roots and lists --------------------------------------------------------------------------------------------------


def test_a_newer_list_is_taken_over_and_an_older_one_is_not(province: Province) -> None:
    process, peer = province.process(QSSP, lists=True), province.certificate(KM, province.key())
    process.trust.verify((peer,))
    province.write_list(process.folder, {number_of(peer): NOW}, 2)
    assert process.trust.reload_if_changed()
    province.write_list(process.folder, {}, 1)
    assert not process.trust.reload_if_changed()
    assert "holds list number 1, older than number 2 now in force" in process.failures[0]
    with pytest.raises(BadProof, match="is revoked"):
        process.trust.verify((peer,))


@pytest.mark.parametrize("kind", ["of another root", "cut short", "no list", "away"])
def test_a_list_that_cannot_be_believed_leaves_the_old_one_until_that_ends(province: Province, kind: str) -> None:
    process, peer = province.process(QSSP, lists=True), province.certificate(KM, province.key())
    path = process.folder / "operator.crl"
    match kind:
        case "of another root":
            path.write_bytes(issue_revocation_list(province.manufacturer, {}, 9, NOW, NOW + 90 * DAY))
        case "cut short":
            path.write_bytes(path.read_bytes()[:-1])
        case "no list":
            path.write_bytes(pem(province.operator.certificate))
        case "away":
            path.unlink()
    assert not process.trust.reload_if_changed()
    assert "operator.crl" in process.failures[0]
    process.trust.verify((peer,))
    process.clock.moment = NOW + 7 * DAY + SECOND
    with pytest.raises(BadProof, match="the revocation list that covers km/jinan ended"):
        process.trust.verify((peer,))
    files = TrustFiles(process.folder / "operator.pem", process.folder / "manufacturer.pem", path)
    with pytest.raises(QsotnError):
        Trust(files, process.clock, process.failures.append)


def test_the_operators_list_says_nothing_about_devices(province: Province) -> None:
    process = province.process(QSSP, lists=True)
    km, device = province.certificate(KM, province.key()), province.certificate(CPE, province.key())
    process.clock.moment = NOW + 7 * DAY + SECOND
    assert process.trust.verify((device,)).party == CPE
    with pytest.raises(BadProof, match="ended"):
        process.trust.verify((km,))


@pytest.mark.parametrize("content", ["nothing", "an end entity", "two roots", "a classical root"])
def test_what_is_no_root_is_not_taken_for_one(province: Province, content: str) -> None:
    process = province.process(QSSP)
    root = process.folder / "operator.pem"
    match content:
        case "nothing":
            root.write_bytes(b"")
        case "an end entity":
            root.write_bytes(pem(province.certificate(KM, province.key())))
        case "two roots":
            root.write_bytes(pem(province.operator.certificate) + pem(province.manufacturer.certificate))
        case "a classical root":
            root.write_bytes(classical_root())
    assert not process.trust.reload_if_changed()
    assert "operator.pem" in process.failures[0]
    files = TrustFiles(root, process.folder / "manufacturer.pem")
    with pytest.raises(UsageError, match="root"):
        Trust(files, process.clock, process.failures.append)


def classical_root() -> bytes:
    key, name = ec.generate_private_key(ec.SECP384R1()), x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM)


def test_a_new_root_takes_the_trust_of_the_old_one_away(province: Province) -> None:
    process = province.process(QSSP)
    peer = process.trust.verify((province.certificate(KM, province.key()),))
    process.trust.confirm(peer)
    other = CertificateAuthority.create("operator", seeded("next"), NOW - DAY)
    (process.folder / "operator.pem").write_bytes(pem(other.certificate))
    assert process.trust.reload_if_changed()
    with pytest.raises(BadProof, match="its root is unknown here"):
        process.trust.confirm(peer)


def test_a_context_made_before_a_renewal_uses_the_new_pair(province: Province) -> None:
    process = province.process(QSSP)
    context = process.server()
    buffers = ssl.MemoryBIO(), ssl.MemoryBIO()
    before = context.wrap_bio(*buffers, server_side=True)
    province.renew(process)
    assert process.credentials.reload_if_changed()
    after = context.wrap_bio(*buffers, server_side=True)
    assert before.engine._tls.get_context() is not after.engine._tls.get_context()
