-- Records in an ordinary table, found through its primary key. In a table WITHOUT ROWID a record above a quarter page
-- spills into a page of its own: a certificate chain was read four times slower, and a change of it wrote four times as
-- much.
ALTER TABLE records RENAME TO records_of_version_1;
CREATE TABLE records (
    collection TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (collection, key)
);
INSERT INTO records (collection, key, value)
SELECT collection, key, value FROM records_of_version_1 WHERE collection <> 'procedures';

-- Rows of procedures get a table of their own: what they are found by becomes columns, the row itself stays opaque.
CREATE TABLE procedures (
    procedure TEXT NOT NULL,
    seat TEXT NOT NULL,
    ladder TEXT NOT NULL,
    subject TEXT NOT NULL,
    running INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (procedure, seat)
);
INSERT INTO procedures (procedure, seat, ladder, subject, running, deadline, content)
SELECT
    json_extract(document, '$.procedure'),
    json_extract(document, '$.seat'),
    json_extract(document, '$.ladder'),
    json_extract(document, '$.subject'),
    json_extract(document, '$.state') = 'RUNNING',
    json_extract(document, '$.deadline'),
    value
FROM (SELECT value, CAST(value AS TEXT) AS document FROM records_of_version_1 WHERE collection = 'procedures');
DROP TABLE records_of_version_1;

-- What has ended is never looked for by subject or deadline, and most rows have ended.
CREATE INDEX procedures_subject ON procedures (subject, procedure, seat) WHERE running;
CREATE INDEX procedures_deadline ON procedures (deadline, procedure, seat) WHERE running;

-- The datagram comes last: what stands behind it is reached only through its pages. Nothing was ever deleted from the
-- old outbox, so numbers go on from its last.
ALTER TABLE outbox RENAME TO outbox_of_version_1;
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    procedure TEXT NOT NULL,
    next_hop TEXT NOT NULL,
    answers BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    due INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    delivered INTEGER NOT NULL DEFAULT 0,
    collected INTEGER NOT NULL,
    datagram BLOB NOT NULL
);
INSERT INTO outbox (number, procedure, next_hop, answers, expires_at, due, attempts, delivered, collected, datagram)
SELECT number, procedure, next_hop, answers, expires_at, due, attempts, delivered, 0, datagram
FROM outbox_of_version_1 ORDER BY number;
DROP TABLE outbox_of_version_1;

-- Datagrams that are sent and those that wait to be collected are found apart from each other, and from all that was
-- delivered: neither kind grows what the other has to search. Both indexes end with what else a search asks for.
CREATE INDEX outbox_sent ON outbox (due, number, expires_at) WHERE NOT delivered AND NOT collected;
CREATE INDEX outbox_collected ON outbox (next_hop, due, number, expires_at) WHERE NOT delivered AND collected;
CREATE INDEX outbox_answers ON outbox (procedure, answers);
CREATE INDEX outbox_expiry ON outbox (expires_at);
