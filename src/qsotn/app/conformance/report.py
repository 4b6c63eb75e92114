"""A conformance report: points in the order of the standard, each passed, failed, or left out for a reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

RunT = TypeVar("RunT")


class Verdict(StrEnum):
    """What became of a point."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    SKIP = "skip"


class Point(msgspec.Struct, frozen=True):
    """One requirement, and what a key manager did about it."""

    name: str
    clause: str
    asked: str
    required: str
    came: str
    verdict: Verdict


class Report(msgspec.Struct, frozen=True):
    """All points of one run."""

    standard: str
    url: str
    points: tuple[Point, ...]

    @property
    def conforms(self) -> bool:
        """Whether no point failed."""
        return all(point.verdict is not Verdict.FAIL for point in self.points)

    def count(self, verdict: Verdict) -> int:
        """Count the points with one verdict."""
        return sum(point.verdict is verdict for point in self.points)


class Fails(Exception):
    """The point fails; says what came instead."""


class Skips(Exception):
    """The point cannot be tested here; says why."""


@dataclass(frozen=True)
class Check(Generic[RunT]):
    """How one point is tested: `test` returns what came, or raises `Fails` or `Skips`."""

    name: str
    clause: str
    asked: str
    required: str
    test: Callable[[RunT], Awaitable[str]]

    async def point(self, run: RunT) -> Point:
        """Test it."""
        verdict = Verdict.PASS
        try:
            came = await self.test(run)
        except Fails as error:
            verdict, came = Verdict.FAIL, str(error)
        except Skips as error:
            verdict, came = Verdict.SKIP, str(error)
        return Point(self.name, self.clause, self.asked, self.required, came, verdict)


class Checks(Generic[RunT]):
    """Checks in the order in which they are declared."""

    def __init__(self) -> None:
        self.listed: list[Check[RunT]] = []

    def point(
        self, clause: str, asked: str, required: str
    ) -> Callable[[Callable[[RunT], Awaitable[str]]], Callable[[RunT], Awaitable[str]]]:
        """Declare a function as the test of one point; its name is the point's."""

        def declare(test: Callable[[RunT], Awaitable[str]]) -> Callable[[RunT], Awaitable[str]]:
            name = getattr(test, "__name__", "").replace("_", "-")
            self.listed.append(Check(name, clause, asked, required, test))
            return test

        return declare

    def add(self, check: Check[RunT]) -> None:
        """Declare one that is made from a table."""
        self.listed.append(check)
