"""Transports: `local` (all parties in one process)."""
