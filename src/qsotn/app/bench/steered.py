"""A process of a benchmark that is told what to do: one line of JSON in, one line out.

It ends when its standard input does, and the kernel ends it with its parent (`qsotn.service.parent`), so that nothing
is left behind however a benchmark ends. Ctrl-C at a terminal reaches the parent alone.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, TypeVar, cast

import msgspec

from qsotn.errors import QsotnError
from qsotn.service.config import LogSection
from qsotn.service.observability import configure_logging
from qsotn.service.parent import end_with

T = TypeVar("T")

GRACE_S: Final = 10.0
LONGEST_LINE: Final = 64 * 1024
_TAIL: Final = 600
"""Characters of what a process wrote at last, to be shown when it ended by itself."""


class Steered:
    """The parent's side. Leaving it ends the process."""

    def __init__(self, module: str, *arguments: str, log: Path) -> None:
        self._module, self._log = module, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603  # the project's own module, without a shell
                (sys.executable, "-m", module, str(os.getpid()), *arguments),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._commands = cast("BinaryIO", self._process.stdin)
        self._answers = cast("BinaryIO", self._process.stdout)

    def ask(self, command: msgspec.Struct, kind: type[T]) -> T:
        """Have it do something; return what it answers. Raises `QsotnError` if it ends instead."""
        try:
            self._commands.write(msgspec.json.encode(command) + b"\n")
            self._commands.flush()
            return msgspec.json.decode(self._answers.readline(), type=kind)
        except (OSError, msgspec.DecodeError) as error:
            raise QsotnError(f"{self._module} ended during the measurement: {self._last_words()}") from error

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-_TAIL:] or "it said nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if error is not None:
            self._process.kill()  # whatever it is doing is of no use any more
        try:
            self._process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def begin() -> tuple[str, ...]:
    """Begin the child's side: tie it to its parent; return its further arguments."""
    parent, *arguments = sys.argv[1:]
    end_with(int(parent))
    configure_logging(LogSection(level="error"), "bench")  # standard output is for answers
    return tuple(arguments)


async def obey(commands: Any, do: Callable[[Any], Awaitable[msgspec.Struct]]) -> None:
    """Do what is asked until there is nobody who asks. `commands` is the union of what may come."""
    decoder = msgspec.json.Decoder(commands)
    reader = asyncio.StreamReader(LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = await do(decoder.decode(line))
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()
