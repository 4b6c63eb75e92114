-- How keys came is kept for a while after the last of their batch was gone. A mark says which units were gone when; what
-- was deleted stays used: nothing is taken in again below `kept_from`, which is a number and no place.
ALTER TABLE key_pools ADD COLUMN kept_from INTEGER NOT NULL DEFAULT 0;

CREATE TABLE key_marks (
    pool INTEGER NOT NULL,
    at INTEGER NOT NULL,
    below INTEGER NOT NULL,
    PRIMARY KEY (pool, at)
) WITHOUT ROWID;

-- When an audience was used last, or some time before that; not known of those of an older release.
ALTER TABLE key_audiences ADD COLUMN used INTEGER;
CREATE INDEX key_audiences_used ON key_audiences (used);
