-- Text is compared by bytes (COLLATE "C"), which in UTF-8 is the order of code points, as in SQLite: whatever the
-- database's own collation is, and whatever a new version of it says.
--
-- Pages of `records` and `procedures` are half filled, so that a changed row finds room beside its old self and no index
-- is written. That is for more than speed: serialisable transactions watch whole pages of an index, and would collide
-- over a neighbour's entry.
CREATE TABLE records (
    collection text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (collection, key)
) WITH (fillfactor = 50);

CREATE TABLE procedures (
    procedure text COLLATE "C" NOT NULL,
    seat text COLLATE "C" NOT NULL,
    ladder text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    running boolean NOT NULL,
    deadline bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (procedure, seat)
) WITH (fillfactor = 50);

-- What has ended is never looked for by subject or deadline, and most rows have ended.
CREATE INDEX procedures_subject ON procedures (subject, procedure, seat) WHERE running;
CREATE INDEX procedures_deadline ON procedures (deadline, procedure, seat) WHERE running;

CREATE TABLE outbox (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    procedure text COLLATE "C" NOT NULL,
    next_hop text COLLATE "C" NOT NULL,
    datagram bytea NOT NULL,
    answers bytea NOT NULL,
    expires_at bigint NOT NULL,
    due bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    delivered boolean NOT NULL DEFAULT false,
    collected boolean NOT NULL
-- Every datagram is changed once or twice and deleted in the end: what is left of it is to be cleared away early, so
-- that a search for what is due does not pass over it.
) WITH (autovacuum_vacuum_scale_factor = 0.02);
-- Signatures and ciphertexts do not compress.
ALTER TABLE outbox ALTER COLUMN datagram SET STORAGE EXTERNAL;

-- Datagrams that are sent and those that wait to be collected are found apart from each other, and from all that was
-- delivered: neither kind grows what the other has to search. Both indexes end with what else a search asks for.
CREATE INDEX outbox_sent ON outbox (due, number, expires_at) WHERE NOT delivered AND NOT collected;
CREATE INDEX outbox_collected ON outbox (next_hop, due, number, expires_at) WHERE NOT delivered AND collected;
CREATE INDEX outbox_answers ON outbox (procedure, answers);
CREATE INDEX outbox_expiry ON outbox (expires_at);

CREATE TABLE journal (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    procedure text COLLATE "C" NOT NULL,
    taken bytea NOT NULL
);
CREATE INDEX journal_procedure ON journal (procedure, number);
