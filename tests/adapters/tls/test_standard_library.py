"""Whether Python's own `ssl` could do it, so that the day is not missed (`qsotn.adapters.tls.context`)."""

from __future__ import annotations

import ssl


def test_the_standard_library_cannot_serve_yet() -> None:
    """If this fails, let `context._context` choose it, and run every test of this folder on both."""
    groups_and_signatures = {"set_groups", "set_server_sigalgs", "set_client_sigalgs"}
    offers_calls = groups_and_signatures <= set(dir(ssl.SSLContext))
    offers_algorithms = ssl.OPENSSL_VERSION_INFO >= (3, 5)
    assert not (offers_calls and offers_algorithms)
