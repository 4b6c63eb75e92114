"""Ordinary TLS for peers of others: certificates of a CA that an operator names, from files that change while it runs.

The handshake is the standard library's, under `ssl.SSLContext`s that are made anew when their files have changed. What
holds besides, as with the post-quantum context beside this one: no application byte moves in either direction once the
peer's certificate is on a revocation list, the list is older than its own next update, or its CA is trusted no more.
That is asked at every read and every write, so that open connections end, too.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from cryptography import x509

from qsotn.adapters.tls.files import Failed, FromFiles
from qsotn.adapters.tls.ordinary_trust import Believed, named, read_believed
from qsotn.crypto.certificates import UNREADABLE
from qsotn.errors import BadProof, UsageError

Clock = Callable[[], float]
"""Return seconds since the epoch."""
Refused = Callable[[str], None]
"""Takes why a peer with a good handshake was refused: one line of the log."""


@dataclass(frozen=True, slots=True)
class OrdinaryFiles:
    """PEM files: our certificate (or chain) and key, the CAs of peers, and a revocation list of each of these CAs.

    Without a list nothing is revoked. A file of lists that is named needs one of every CA.
    """

    certificate: Path
    key: Path
    authority: Path
    revoked: Path | None = None

    @property
    def trusted(self) -> tuple[Path, ...]:
        """The files that say whom to believe."""
        return (self.authority,) if self.revoked is None else (self.authority, self.revoked)


class OrdinaryTls:
    """One listener's, or one client's, TLS. Raises `UsageError` at construction if the files cannot be used."""

    def __init__(
        self,
        files: OrdinaryFiles,
        make: Callable[[OrdinaryFiles], ssl.SSLContext],
        refused: Refused,
        failed: Failed,
        clock: Clock = time.time,
    ) -> None:
        """`make` makes the context that files stand for, and raises `UsageError`."""
        self._files, self._make, self.refused, self._clock = files, make, refused, clock
        self._believed = FromFiles(files.trusted, self._read, failed)
        self._inner = FromFiles((files.certificate, files.key, *files.trusted), self._context, failed)
        self.context = _ReloadingContext(self)
        """For asyncio: new connections are made with what is in force then."""

    @property
    def believed(self) -> Believed:
        """Whom to believe now."""
        return self._believed.value

    @property
    def inner(self) -> ssl.SSLContext:
        """The context of the files that are in force now."""
        return self._inner.value

    def now(self) -> float:
        """The moment that lists are held against."""
        return self._clock()

    def reload_if_changed(self) -> bool:
        """Take over changed files, for new and for open connections; say whether there were any (see `FromFiles`).

        Whom to believe counts at once, also while a certificate and its key do not belong together yet.
        """
        believed = self._believed.reload_if_changed()
        return self._inner.reload_if_changed() or believed

    def _read(self, previous: Believed | None) -> Believed:
        return read_believed(self._files.authority, self._files.revoked, previous)

    def _context(self, _: ssl.SSLContext | None) -> ssl.SSLContext:
        context = self._make(self._files)
        if self._files.revoked is not None:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
            _load_lists(context, self._files.revoked)
        context.sslobject_class = _Connection
        return context


class _ReloadingContext(ssl.SSLContext):
    """The context in force, for asyncio to hold on to; nothing of its parent's is used."""

    def __new__(cls, tls: OrdinaryTls) -> Self:
        """Make the parent believe in a side, as it demands."""
        return super().__new__(cls, tls.inner.protocol)

    def __init__(self, tls: OrdinaryTls) -> None:
        self._tls = tls

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """Begin a connection with the certificate and the trust that are in force now."""
        made = self._tls.inner.wrap_bio(*arguments, **named)
        if not isinstance(made, _Connection):
            raise TypeError("the context in force makes no connections of this module")
        made.judged_by(self._tls)
        return made

    def wrap_socket(self, *_: Any, **__: Any) -> NoReturn:
        """Raise: a blocking socket would not be judged."""
        raise NotImplementedError("blocking sockets are not served: use asyncio")


class _Connection(ssl.SSLObject):
    """A connection whose peer is judged again at every read and write; as long as nothing changes, by a comparison."""

    _tls: OrdinaryTls
    _at_first: Believed
    _verified: Believed | None = None
    _until = 0.0
    _over = False

    def judged_by(self, tls: OrdinaryTls) -> None:
        """Note who judges the peer, and who is believed at the beginning."""
        self._tls, self._at_first = tls, tls.believed

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name it has in the standard library
        """Return application bytes of a peer that is still believed."""
        # Read first: until the handshake's last bytes are read, there may be no certificate to judge.
        got = super().read(len) if buffer is None else super().read(len, buffer)
        self._confirm()
        return got

    def write(self, data: Any) -> int:
        """Encrypt application bytes for a peer that is still believed."""
        self._confirm()
        return super().write(data)

    def _confirm(self) -> None:
        believed = self._tls.believed
        if believed is not self._verified or self._tls.now() > self._until:
            self._judge(believed)

    def _judge(self, believed: Believed) -> None:
        if self._over:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the peer was refused")
        try:
            self._until = self._checked(believed)
        except BadProof as error:
            self._over = True  # said once
            self._tls.refused(str(error))
            raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, str(error)) from error
        self._verified = believed

    def _checked(self, believed: Believed) -> float:
        shown = self.getpeercert(binary_form=True)
        try:
            certificate = x509.load_der_x509_certificate(shown or b"")
        except UNREADABLE as error:
            raise BadProof(f"the peer's certificate cannot be read: {error}") from error
        until = believed.check(certificate, self._tls.now())
        # The handshake has verified the chain with the CAs of its time, intermediate ones that the peer sent among
        # them. With other CAs than then, only what one of them signed itself is known to be in order.
        if believed.authorities != self._at_first.authorities and not believed.issued(certificate):
            raise BadProof(f"the CA of {named(certificate.subject)} is not named any more; it may connect again")
        return until


def _load_lists(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{path} holds no revocation list in PEM: {error}") from error
