"""A wire between a store and its server that can be cut at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Cut:
    """Listens on 127.0.0.1 and passes bytes on. `before` or `after` name the request at which it cuts, once.

    Before: the request never reaches the server. After: the server has answered it, and the answer is lost.
    """

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.before: bytes | None = None
        self.after: bytes | None = None
        self.cuts = 0

    def run(self) -> None:
        """Serve one connection after another until the listener is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
                threads = [threading.Thread(target=self._requests, args=(client, server))]
                threads.append(threading.Thread(target=self._answers, args=(client, server)))
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

    def close(self) -> None:
        # Closing alone would not wake up who waits in accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(client):
            if self.before is not None and self.before in data:
                self.before = None
                break
            self._lose_answer = self.after is not None and self.after in data
            server.sendall(data)
        self._end(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(server):
            if getattr(self, "_lose_answer", False):
                self.after = None
                break
            client.sendall(data)
        self._end(client, server)

    def _end(self, *ends: socket.socket) -> None:
        self.cuts += 1
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65536)
    except OSError:
        return b""


@contextlib.contextmanager
def cut(server_port: int) -> Iterator[Cut]:
    """Run such a wire."""
    wire = Cut(server_port)
    thread = threading.Thread(target=wire.run)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join(10)
