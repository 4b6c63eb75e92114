"""`qsotn line` and `qsotn account` as a person sees them: leased lines, and whose they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from qsotn.app.operator import Operator
from qsotn.app.operator_orders import (
    EndView,
    LineView,
    LineWishes,
    accounts,
    delete_line,
    free_line_name,
    line_named,
    line_order,
    line_status,
    line_view,
    lines,
    open_account,
    order_line,
    rekey_line,
    usage,
)
from qsotn.console.operator import begun_line, carried_out, moment, operate, write_json, write_lines, write_table
from qsotn.domain import LineId
from qsotn.parties.pomp import UsageRecord
from qsotn.procedures.turn import State
from qsotn.service.http.operations_lines import LineStatus
from qsotn.service.http.procedures import Procedure


class LineOrdered(msgspec.Struct, frozen=True):
    """What `--json` prints of an order about a line: the procedure, and the line after it."""

    procedure: Procedure
    line: LineStatus


class LineDeleted(msgspec.Struct, frozen=True):
    """What `qsotn line delete --json` prints: also what the line used, once that is recorded."""

    procedure: Procedure
    line: LineStatus
    usage: UsageRecord | None


def create_line(state: Path, wishes: LineWishes, patience_s: float | None, *, as_json: bool) -> None:
    """Order a line, and wait until it is ENCRYPTED."""
    order = line_order(wishes)

    async def begin(operator: Operator) -> Procedure:
        if wishes.account is None:
            await open_account(operator, order.account)
        named = order if wishes.name else msgspec.structs.replace(order, line=await free_line_name(operator))
        return await order_line(operator, named)

    done = operate(state, lambda operator: _ordered(operator, begin, patience_s))
    if as_json or done.procedure.state is State.RUNNING:
        _show_order(state, done, as_json=as_json)
    else:
        line = done.line
        write_lines([f"{line.line} is {line.state} between {line.cpe_a} and {line.cpe_b}, over {line.quality.odu}."])


def rekey(state: Path, name: str, patience_s: float | None, *, as_json: bool) -> None:
    """Order new keys for a line, and wait until they encrypt it."""
    line = line_named(name)
    done = operate(state, lambda operator: _ordered(operator, lambda o: rekey_line(o, line), patience_s))
    if as_json or done.procedure.state is State.RUNNING:
        _show_order(state, done, as_json=as_json)
    else:
        write_lines([f"{line} is encrypted with its generation {done.line.generation} of keys."])


async def _ordered(
    operator: Operator, begin: Callable[[Operator], Awaitable[Procedure]], patience_s: float | None
) -> LineOrdered:
    ended = await carried_out(operator, await begin(operator), patience_s)
    return LineOrdered(ended, await line_status(operator, LineId(ended.subject)))


def _show_order(state: Path, done: LineOrdered | LineDeleted, *, as_json: bool) -> None:
    if as_json:
        write_json(done)
    else:
        write_lines([begun_line(done.procedure, f"qsotn line show {done.line.line} --state {state}")])


def delete(state: Path, name: str, patience_s: float | None, *, as_json: bool) -> None:
    """Order a line out of service, and wait until its usage is recorded."""
    line = line_named(name)

    async def act(operator: Operator) -> LineDeleted:
        done = await _ordered(operator, lambda o: delete_line(o, line), patience_s)
        return LineDeleted(done.procedure, done.line, await usage(operator, line))

    done = operate(state, act)
    if as_json or done.usage is None:
        _show_order(state, done, as_json=as_json)
    else:
        write_lines([f"{line} is {done.line.state}.", _usage_line(done.usage)])


def list_lines(state: Path, *, as_json: bool) -> None:
    """List all lines, those of the past among them."""
    found = operate(state, lines)
    if as_json:
        write_json(found)
        return
    heading = ("line", "from", "to", "account", "ODU", "state", "keys", "encrypted since (UTC)", "failure")
    rows = [
        (
            one.line,
            one.cpe_a,
            one.cpe_b,
            one.account,
            one.quality.odu,
            one.state,
            str(one.generation),
            moment(one.encrypted_at),
            one.failure,
        )
        for one in found
    ]
    hint = f"qsotn line create --from CPE --to CPE --state {state}"
    write_table(heading, rows, f"No line was ordered yet; order one with: {hint}")


def show_line(state: Path, name: str, *, as_json: bool) -> None:
    """Show one line: as it was ordered, both ends, and what it used."""
    line = line_named(name)
    found = operate(state, lambda operator: line_view(operator, line))
    if as_json:
        write_json(found)
    else:
        write_lines(_line_lines(found))


def _line_lines(found: LineView) -> list[str]:
    known, quality = found.line, found.line.quality
    lines = [
        f"{known.line} is {known.state}{f': {known.failure}' if known.failure else ''}",
        f"  account    {known.account}",
        f"  between    {known.cpe_a} ({known.qssp_a}) and {known.cpe_b} ({known.qssp_b})",
        f"  ordered    {quality.odu}, new keys every {quality.rekey_interval_s} s, at most {quality.max_latency_us} μs",
        f"  procedure  {known.procedure}",
    ]
    if known.encrypted_at:
        lines.append(f"  encrypted  since {moment(known.encrypted_at)} UTC, generation {known.generation} of keys")
    lines += [f"  {line}" for end in found.ends for line in _end_lines(end)]
    if found.usage is not None:
        lines.append(f"  {_usage_line(found.usage)}")
    return lines


def _end_lines(end: EndView) -> list[str]:
    if end.unreached:
        return [f"{end.cpe}: {end.unreached}"]
    if end.status is None:
        return [f"{end.cpe} serves no line of this name"]
    told = end.status
    keys = f"generation {told.active}" if told.active else "none"
    return [
        f"{end.cpe} (end {told.end}): {told.state}, keys in use {keys}, alarms {', '.join(told.alarms) or 'none'}",
        f"  client bytes {told.client_bytes_in:,} in and {told.client_bytes_out:,} out",
        f"  multiframes sent {told.multiframes_sent:,}",
    ]


def _usage_line(used: UsageRecord) -> str:
    seconds = (used.ended_at - used.encrypted_at) / 1e6
    drawn = " and ".join(str(one.keys_drawn) for one in used.key_usage)
    burned = " and ".join(str(one.entries_burned) for one in used.key_usage)
    return (
        f"Usage of {used.account}: {seconds:.1f} s in service, client bytes {used.end_b.client_bytes_out:,} from a to "
        f"b and {used.end_a.client_bytes_out:,} back; keys drawn {drawn}, key-file entries burned {burned}."
    )


# --- accounts -------------------------------------------------------------------------------------------------------


def open_customer(state: Path, name: str, *, as_json: bool) -> None:
    """Open a customer's account; one that is open stays as it is."""
    opened = operate(state, lambda operator: open_account(operator, name))
    if as_json:
        write_json(opened)
    else:
        write_lines([f"The account {opened.name} is open since {moment(opened.opened_at)} UTC."])


def list_accounts(state: Path, *, as_json: bool) -> None:
    """List all customers' accounts."""
    found = operate(state, accounts)
    if as_json:
        write_json(found)
        return
    rows = [(one.name, moment(one.opened_at)) for one in found]
    hint = f"qsotn account open NAME --state {state}"
    write_table(("account", "opened (UTC)"), rows, f"No account was opened yet; open one with: {hint}")
