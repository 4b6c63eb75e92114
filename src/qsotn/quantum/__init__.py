"""The digital twin of one QKD link: decoy-state BB84 that distils real, matching keys from simulated light.

The paper (section 3.1) takes the keys of the QKD network as given; this package is where ours come from. Only the
physics is simulated. Alice and Bob are separate state machines which share light and bytes, nothing else, and every
stage of the post-processing is carried out by both on what they really hold.

Read in this order: `parameters` (the link and the protocol), `optics` (photons), `messages` (all that is said),
`sifting`, `estimation`, `finite_key` (how much secrecy there is), `reconciliation` and `cascade` (errors out, leakage
counted), `hashing` (verification and privacy amplification), `authentication`, then `alice`, `bob` and `link`.

What always holds: the light is gone before a basis is announced; every bit that crosses the classical channel about
the key is counted; no key leaves a party before the other's authentication tag over the whole exchange has verified;
a block that fails raises one of `failures` and yields nothing.
"""
