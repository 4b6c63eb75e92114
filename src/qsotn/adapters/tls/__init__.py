"""Post-quantum mutual TLS between the services: both ends prove who they are, with ML-DSA, over a hybrid key exchange.

Read in this order:

1. `context` — what a service asks for: one `ssl.SSLContext` for its server, one for each party it calls.
2. `connection` — one connection: bytes in, bytes out, and the verdict on the peer before the first application byte.
3. `openssl` — the settings of the TLS library, and its errors in words.
4. `trust`, `credentials`, `files` — roots, revocation lists, certificate and key, from files, renewed as they change.
5. `uvicorn_protocol` — the verified peer in the scope of every request.

What always holds: TLS 1.3, X25519MLKEM768 or SecP384r1MLKEM1024, ML-DSA signatures, AES-256-GCM, a certificate on both
sides, no resumption. No application byte moves in either direction before the peer's chain was verified, and none after
the peer was revoked or its certificate expired.
"""
