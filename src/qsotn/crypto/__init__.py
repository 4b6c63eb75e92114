"""Cryptography: suites, envelopes, identities and key schedules, each following a named standard."""
