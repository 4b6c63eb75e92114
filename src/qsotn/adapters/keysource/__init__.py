"""Keys from key managers of others: clients of their interfaces, strict about what they accept.

`etsi014_format` has the data formats of ETSI GS QKD 014 for both ends, `etsi014` is its client.
"""
