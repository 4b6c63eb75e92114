"""The schema of a key store, as numbered plain SQL, by the rules of `adapters.storage.migrations`.

The tables are numbered apart from those of the party's other store: in PostgreSQL both lie in the party's schema.
"""
