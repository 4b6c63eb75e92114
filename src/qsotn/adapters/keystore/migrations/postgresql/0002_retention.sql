-- How keys came is kept for a while after the last of their batch was gone. A mark says which units were gone when; what
-- was deleted stays used: nothing is taken in again below `kept_from`, which is a number and no place.
ALTER TABLE key_pools ADD COLUMN kept_from bigint NOT NULL DEFAULT 0;

CREATE TABLE key_marks (
    pool bigint NOT NULL,
    at bigint NOT NULL,
    below bigint NOT NULL,
    PRIMARY KEY (pool, at)
);

-- When an audience was used last, or some time before that; not known of those of an older release.
ALTER TABLE key_audiences ADD COLUMN used bigint;
CREATE INDEX key_audiences_used ON key_audiences (used);
