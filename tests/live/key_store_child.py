"""A key store in a process of its own, which can be killed: one line in, batches of operations; one line out, answers.

    python -m tests.live.key_store_child URL PARTY FOLDER REPLICA [FULL|NORMAL]

NORMAL does not wait for the disk; it proves that a test of durability sees what is lost.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from qsotn.adapters.keystore import KeyLedger, Times, sqlite
from qsotn.adapters.keystore import open_key_store as open_store
from qsotn.crypto.vault import Vault
from qsotn.domain import KeyId, PartyId, Secret
from qsotn.errors import QsotnError, StoreError
from qsotn.keynetwork.delivery import (
    Applied,
    Assign,
    Collect,
    Confirm,
    Deposit,
    Operation,
    ReadyKey,
    Reserve,
    Sweep,
    Void,
)

SECOND: Final = 1_000_000
TIMES: Final = Times(window=5 * SECOND, held=3600 * SECOND, waiting=3600 * SECOND, epoch=20 * SECOND, epoch_units=2000)
KINDS: Final[dict[str, type[Operation]]] = {
    kind.__name__: kind for kind in (Deposit, Reserve, Confirm, Assign, Collect, Void, Sweep)
}


class Answer(msgspec.Struct, frozen=True):
    """What came of a batch; `failed` if nothing is known of it."""

    done: dict[int, list[tuple[str, str]]] = {}
    refused: dict[int, str] = {}
    failed: str = ""


def open_child(url: str, party: str, folder: str, replica: str) -> KeyLedger:
    vault = Vault(Secret(b"k" * 32), os.urandom)
    return open_store(url, PartyId(party), Path(folder), vault, os.urandom, replica=replica, times=TIMES)


# --- lines ------------------------------------------------------------------------------------------------------------


def write_operations(operations: list[Operation]) -> bytes:
    return msgspec.json.encode([(type(one).__name__, one) for one in operations], enc_hook=_show) + b"\n"


def read_operations(line: bytes) -> list[Operation]:
    return [
        msgspec.convert(content, type=KINDS[kind], dec_hook=_hide, builtin_types=(bytes,), strict=False)
        for kind, content in msgspec.json.decode(line)
    ]


def write_answer(applied: Applied | str) -> bytes:
    if isinstance(applied, str):
        return msgspec.json.encode(Answer(failed=applied)) + b"\n"
    done = {index: [(str(key.key_id), key.key.reveal().hex()) for key in keys] for index, keys in applied.done.items()}
    refused = {index: str(error) for index, error in applied.refused.items()}
    return msgspec.json.encode(Answer(done, refused)) + b"\n"


def read_answer(line: bytes) -> Applied | None:
    """What was done, or None if that is not known."""
    answer = msgspec.json.decode(line, type=Answer)
    if answer.failed:
        return None
    done = {
        index: tuple(ReadyKey(KeyId(name), Secret(bytes.fromhex(key))) for name, key in keys)
        for index, keys in answer.done.items()
    }
    return Applied(done, {index: QsotnError(text) for index, text in answer.refused.items()})


def _show(value: Any) -> str:
    assert isinstance(value, Secret)
    return value.reveal().hex()


def _hide(kind: type, value: Any) -> Any:
    assert kind is Secret
    return Secret(bytes.fromhex(value))


def serve(store: KeyLedger) -> None:
    """Answer one line after another."""
    for line in sys.stdin.buffer:
        try:
            answer = write_answer(store.apply(read_operations(line)))
        except StoreError as error:
            answer = write_answer(str(error))
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    *place, synchronous = [*sys.argv[1:], "FULL"][:5]
    if synchronous == "NORMAL":
        sqlite.SqliteTables.__init__.__defaults__ = ("NORMAL",)
    serve(open_child(*place))
