"""Tests of other people's key managers against a standard: each point says its clause, what was asked, and what came.

`report` is what a run yields, `asking` how a key manager is asked; `etsi014` runs the points of ETSI GS QKD 014, which
are in `etsi014_status`, `etsi014_enc_keys` and `etsi014_dec_keys`. A report names key IDs, never keys.
"""
