-- The event log: one row for each transaction that moved something. batt_supervisor/store/journal.py says what is in it.
CREATE TABLE events (
    first INTEGER PRIMARY KEY,         -- number of its first event
    last INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    body TEXT NOT NULL                 -- JSON array of entries
) STRICT;
ALTER TABLE counters ADD COLUMN event_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN event_seq INTEGER;                            -- its last event; NULL where it has none

-- Retention. A run that is being removed is seen by nobody any more.
ALTER TABLE runs ADD COLUMN going INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN ended_seq INTEGER NOT NULL DEFAULT 0;          -- number of its last event 'ended'; 0: before there were any
CREATE INDEX runs_ended ON runs (ended_seq) WHERE ended_at_ms IS NOT NULL;
CREATE INDEX results_in_files ON results (task_id) WHERE file IS NOT NULL;

-- How many attempts have output in a log, so that it is known when nobody names it any more.
CREATE TABLE logs (
    name TEXT PRIMARY KEY,             -- file below logs/
    attempts INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO logs SELECT log, count(*) FROM attempts WHERE log_to > log_from GROUP BY log;

-- Age. It is counted in time that battd has itself seen pass, so that a wall clock which is wrong removes nothing.
ALTER TABLE counters ADD COLUMN lived_ms INTEGER NOT NULL DEFAULT 0;       -- how much of it there has been
ALTER TABLE counters ADD COLUMN lived_at_ms INTEGER;                       -- wall time when that was written
CREATE TABLE marks (
    lived_ms INTEGER PRIMARY KEY,      -- then
    event_seq INTEGER NOT NULL         -- this was the last event
) STRICT;
