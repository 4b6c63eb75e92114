-- A place is 64 bits: the pool's number, then 44 bits for the unit's. One integer finds a unit, and the units of a pool
-- lie beside each other in the order in which they are given out.
--
-- A unit is changed twice before it is deleted. Pages are half filled, so that a changed row finds room beside its old
-- self and no index is written; nothing but the place is indexed, for the same reason.
CREATE TABLE key_units (
    place bigint PRIMARY KEY,
    state smallint NOT NULL DEFAULT 0,
    audience bigint NOT NULL DEFAULT 0,
    size bigint NOT NULL DEFAULT 256,
    until bigint,
    request bigint NOT NULL DEFAULT 0,
    handed text,
    epoch bigint NOT NULL,
    wrapped bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
-- Ciphertexts do not compress.
ALTER TABLE key_units ALTER COLUMN wrapped SET STORAGE EXTERNAL;

CREATE TABLE key_pools (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    series bigint NOT NULL,
    ended boolean NOT NULL DEFAULT false,
    UNIQUE (origin, target, series)
);

CREATE TABLE key_audiences (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    master text COLLATE "C" NOT NULL,
    slaves text COLLATE "C" NOT NULL,
    UNIQUE (master, slaves)
);

-- Kept for good: what was ever deposited, and how it came here. `first` and `last` are places.
CREATE TABLE key_batches (
    first bigint PRIMARY KEY,
    last bigint NOT NULL,
    pool bigint NOT NULL,
    batch text COLLATE "C" NOT NULL,
    provenance bytea NOT NULL,
    UNIQUE (pool, batch)
);

-- Keys that go by an identifier of another pool.
CREATE TABLE key_names (
    name text COLLATE "C" PRIMARY KEY,
    place bigint NOT NULL
);
CREATE INDEX key_names_place ON key_names (place);

-- What is to be looked at when: one row for all that a transaction did of a kind, instead of an index over all units.
CREATE TABLE key_agenda (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    due bigint NOT NULL,
    kind smallint NOT NULL,
    places bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE key_agenda ALTER COLUMN places SET STORAGE EXTERNAL;
CREATE INDEX key_agenda_due ON key_agenda (due);

-- Every replica counts in rows of its own, so that none waits for another's commit.
CREATE TABLE key_tallies (
    what smallint NOT NULL,
    subject bigint NOT NULL,
    replica text COLLATE "C" NOT NULL,
    value bigint NOT NULL,
    PRIMARY KEY (what, subject, replica)
) WITH (fillfactor = 50);

CREATE TABLE key_epochs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica text COLLATE "C" NOT NULL,
    begun bigint,
    filling boolean NOT NULL DEFAULT true
);

CREATE TABLE key_store (
    identity bytea NOT NULL,
    series_floor bigint NOT NULL
);
