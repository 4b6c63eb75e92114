"""One party at work: receive → verify → handle → commit state, inbox and outbox together → send.

Read `node` first; `admission` says what a message must be to advance a row, `posting` how an answer leaves, `failing`
how a refusal travels. What always holds:

- A datagram is opened, held against the ladder and the row, and handled inside one transaction. Any error rolls all of
  it back, so a message that is forged, replayed, early, late or from the wrong party leaves no trace but a count.
- A row keeps the digest of everything it heard. The same bytes again get a receipt, and the stored answers become due
  again byte for byte; other bytes for a step already heard are `ReplayedMessage`.
- Nothing is sent that is not committed. A datagram stays in the outbox until the next hop has it durably, so a crash
  between any two writes loses nothing, and repeats only what the receiver recognises.
"""

from qsotn.runtime.node import Node

__all__ = ["Node"]
