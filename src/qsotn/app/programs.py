"""Which processes a province is made of, in the order in which they are started: who is asked before who asks.

They are stopped by stages, the other way round.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from qsotn.app.plan import Plan
from qsotn.app.processes import Program
from qsotn.app.record import LOG, ProvinceRecord, ServiceRecord
from qsotn.app.service_files import store_url
from qsotn.domain import Role, role_of

_STAGES: Final = {
    Role.KM: 0,
    Role.QKMP: 1,
    Role.QSSP: 1,
    Role.PMP: 2,
    Role.POMP: 2,
    Role.CPE: 3,
    Role.QKD: 3,
}
TWIN_NAME: Final = "qkd twin"


def programs(state: Path, record: ProvinceRecord, plan: Plan) -> list[Program]:
    """Return the programs of a province: every replica of every party, and the twin."""
    order = list(_STAGES)
    services = sorted(record.services, key=lambda one: order.index(role_of(one.party)))
    return [*(_service(state, one, plan) for one in services), _twin(state, record)]


def _service(state: Path, one: ServiceRecord, plan: Plan) -> Program:
    suffix = "" if one.replica == 1 else f".{one.replica}"
    return Program(
        name=f"{one.party}{suffix}",
        command=_serve(role_of(one.party), state / one.configuration),
        log=state / LOG / f"{one.party.replace('/', '-')}{suffix}.log",
        monitoring=one.monitoring,
        url=one.url,
        store=store_url(plan, one.party).partition(":")[0],
        stage=_STAGES[role_of(one.party)],
    )


def _twin(state: Path, record: ProvinceRecord) -> Program:
    command = _serve(Role.QKD, state / record.twin.configuration)
    return Program(TWIN_NAME, command, state / LOG / "twin.log", record.twin.monitoring, stage=_STAGES[Role.QKD])


def _serve(role: Role, configuration: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "qsotn", "serve", role, "--config", str(configuration))
