"""How the desk thread sleeps when frames may arrive for it too: on a bell that the event loop rings, and on sockets."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence

from qsotn.errors import UsageError


class Doorbell:
    """Wakes one thread when it is rung, or when one of its sockets can be read."""

    def __init__(self, ports: Sequence[socket.socket]) -> None:
        if not hasattr(os, "eventfd"):
            raise UsageError("a device's line needs Linux: there is no eventfd here")
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        for descriptor in (self._bell, *(port.fileno() for port in ports)):
            self._poll.register(descriptor, select.POLLIN)

    def ring(self) -> None:
        """Wake the thread now, or as soon as it goes to sleep. From any thread."""
        os.eventfd_write(self._bell, 1)

    def wait(self, patience_s: float) -> bool:
        """Sleep until one or the other, or the end of patience; say whether a socket can be read."""
        ready = [descriptor for descriptor, _ in self._poll.poll(max(0, round(patience_s * 1000)))]
        if self._bell in ready:
            os.eventfd_read(self._bell)
        return any(descriptor != self._bell for descriptor in ready)

    def close(self) -> None:
        """Give the bell back; nobody may ring it afterwards."""
        os.close(self._bell)
