"""One party as a service: its process, its network, its operator's view of it.

Read `host` first: what a process is made of and how it begins and ends. `worker` is the desk thread, where everything
that changes a party happens; `sender` and `mailbox` are the two ways out of its outbox; `http` is what others may ask.
"""
