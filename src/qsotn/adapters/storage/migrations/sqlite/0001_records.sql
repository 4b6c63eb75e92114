CREATE TABLE records (
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (collection, key)
) WITHOUT ROWID;

CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    procedure TEXT NOT NULL,
    next_hop TEXT NOT NULL,
    datagram BLOB NOT NULL,
    answers BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    due INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX outbox_due ON outbox (delivered, due, number);
CREATE INDEX outbox_answers ON outbox (procedure, answers);

CREATE TABLE journal (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    procedure TEXT NOT NULL,
    taken BLOB NOT NULL
);
CREATE INDEX journal_procedure ON journal (procedure, number);
