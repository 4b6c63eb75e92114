"""What others may ask of a party over HTTP: an ASGI application, and the OpenAPI document that describes it.

Read `application` first, then `operation` and `declaring` (what an operation is), `messages` and `mailbox` (what
parties say to each other), and the `operations_*` (what an operator reads and orders). `problems` is the one table of
errors.
"""
