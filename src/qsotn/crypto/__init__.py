"""What the parties prove, hide and derive with; no protocol, no state, no clock.

Read in this order:

1. `labels` — every domain-separation label, in one table.
2. `suites` — the three named sets of algorithms; keys as bytes and back.
3. `cbor` — the one encoding that is signed, hashed and compared.
4. `certificates`, `paths`, `identity` — who a party is: X.509 with ML-DSA, one certificate for its two keys.
   `transport_certificates`, `revocation_lists` — the other certificate, for TLS connections, and how it is taken back.
5. `envelope` — COSE_Sign1 around every message, HPKE to one recipient, the project's hash.
6. `keyfile` — Figure 3, steps 8 to 10: the hybrid key schedule of the key file.
7. `session` — Figure 4, steps 9 to 11: session keys wrapped to a CPE, compared between two QSSPs.
8. `vault` — secrets at rest.

What always holds: a failed verification raises and returns nothing; a secret is inside `Secret` except for the time of
one operation; time and entropy are arguments; the only randomness not passed in is what `cryptography` draws inside
HPKE encapsulation and hedged ML-DSA signing, which its interface does not let a caller supply.
"""
