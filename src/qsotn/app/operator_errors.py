"""What an operator is told when a service does not do what was asked.

LineError
├── Unreachable    nobody took the request
├── Unanswered     it was sent and no answer came: it may have been carried out
└── Busy           the service asks to be left alone for a moment
QsotnError
├── Declined       the service answered with a problem (RFC 9457); one with a code is a `Refusal`
└── StillRunning   a procedure has not ended in time; it goes on
"""

from __future__ import annotations

import os

import aiohttp
import msgspec

from qsotn.domain import PartyId, ProcedureId
from qsotn.errors import LineError, QsotnError, Refusal
from qsotn.service.http.problems import Problem


class Unreachable(LineError):
    """No connection: nobody took the request."""

    def __init__(self, party: PartyId, url: str, reason: str, advice: str = "") -> None:
        super().__init__(_with_advice(f"{party} is not reached at {url}: {reason}", advice))


class Unanswered(LineError):
    """The request was sent, and no answer came."""

    def __init__(self, party: PartyId, url: str, reason: str, advice: str = "") -> None:
        super().__init__(_with_advice(f"{party} gave no answer to {url}: {reason}", advice))


class Busy(LineError):
    """The service cannot serve now, and says when to ask again."""

    def __init__(self, party: PartyId, problem: Problem, retry_after: str | None) -> None:
        super().__init__(f"{party} cannot serve now: {problem.detail or problem.title}")
        self.retry_after_s = float(retry_after) if retry_after is not None and retry_after.isdigit() else 1.0


class Declined(QsotnError):
    """The service answered, and not with what was asked for."""

    def __init__(self, party: PartyId, problem: Problem) -> None:
        super().__init__(f"{party}: {problem.detail or problem.title}")
        self.status = problem.status

    @staticmethod
    def of(party: PartyId, problem: Problem) -> QsotnError:
        """Return the error for a problem document: a `Refusal` if the party decided no."""
        return Refusal(problem.code, problem.detail) if problem.code else Declined(party, problem)


class StillRunning(QsotnError):
    """A procedure has not ended in time."""

    def __init__(self, procedure: ProcedureId, waited_s: float) -> None:
        super().__init__(f"procedure {procedure} has not ended within {waited_s:g} s; it goes on")


def problem_in(status: int, answer: bytes | bytearray) -> Problem:
    """Return the problem document of an answer; what is none is described as well as it can be."""
    try:
        return msgspec.json.decode(answer, type=Problem)
    except msgspec.DecodeError:
        return Problem("about:blank", "", status, f"status {status} without a problem document")


def reason_of(error: Exception) -> str:
    """Say in a few words why a request failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return os.strerror(error.os_error.errno)
    return str(error) or type(error).__name__


def _with_advice(text: str, advice: str) -> str:
    return f"{text}; {advice}" if advice else text
