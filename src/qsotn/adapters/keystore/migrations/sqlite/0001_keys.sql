-- A place is 64 bits: the pool's number, then 44 bits for the unit's. One integer finds a unit, and the units of a pool
-- lie beside each other in the order in which they are given out.
CREATE TABLE key_units (
    place INTEGER PRIMARY KEY,
    state INTEGER NOT NULL DEFAULT 0,
    audience INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL DEFAULT 256,
    until INTEGER,
    request INTEGER NOT NULL DEFAULT 0,
    handed TEXT,
    epoch INTEGER NOT NULL,
    wrapped BLOB NOT NULL
);

CREATE TABLE key_pools (
    number INTEGER PRIMARY KEY,
    origin TEXT NOT NULL,
    target TEXT NOT NULL,
    series INTEGER NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0,
    UNIQUE (origin, target, series)
);

CREATE TABLE key_audiences (
    number INTEGER PRIMARY KEY,
    master TEXT NOT NULL,
    slaves TEXT NOT NULL,
    UNIQUE (master, slaves)
);

-- Kept for good: what was ever deposited, and how it came here. `first` and `last` are places.
CREATE TABLE key_batches (
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    pool INTEGER NOT NULL,
    batch TEXT NOT NULL,
    provenance BLOB NOT NULL,
    UNIQUE (pool, batch)
);

-- Keys that go by an identifier of another pool.
CREATE TABLE key_names (
    name TEXT PRIMARY KEY,
    place INTEGER NOT NULL
);
CREATE INDEX key_names_place ON key_names (place);

-- What is to be looked at when: one row for all that a transaction did of a kind, instead of an index over all units.
CREATE TABLE key_agenda (
    number INTEGER PRIMARY KEY,
    due INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    places BLOB NOT NULL
);
CREATE INDEX key_agenda_due ON key_agenda (due);

CREATE TABLE key_tallies (
    what INTEGER NOT NULL,
    subject INTEGER NOT NULL,
    replica TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (what, subject, replica)
) WITHOUT ROWID;

CREATE TABLE key_epochs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    replica TEXT NOT NULL,
    begun INTEGER,
    filling INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE key_store (
    identity BLOB NOT NULL,
    series_floor INTEGER NOT NULL
);
