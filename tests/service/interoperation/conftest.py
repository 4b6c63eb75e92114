"""A link with real key managers at both ends, as the tests of the twin have it."""

from __future__ import annotations

from tests.service.test_twin import rack

__all__ = ["rack"]
