-- What attempts are expected to take: declared, and learned from those that have ended.
ALTER TABLE stages ADD COLUMN need_memory_bytes INTEGER;                   -- NULL where nothing was declared
ALTER TABLE stages ADD COLUMN need_threads INTEGER;
ALTER TABLE stages ADD COLUMN kind_name TEXT NOT NULL DEFAULT '';          -- '' for the function's or command's own

ALTER TABLE tasks ADD COLUMN evicted INTEGER NOT NULL DEFAULT 0;

-- By stage: the front of each is looked at, so that a stage whose tasks are all held hides no other.
DROP INDEX tasks_queued;
CREATE INDEX tasks_queued ON tasks (run_id, stage, idx) WHERE state = 'queued';

CREATE TABLE kinds (
    kind TEXT PRIMARY KEY,
    attempts INTEGER NOT NULL,         -- how many were learned from
    memory_peaks TEXT NOT NULL,        -- JSON array of bytes: of the last attempts, oldest first
    thread_peaks TEXT NOT NULL,        -- JSON array likewise; null for an attempt that was too short to be looked at
    updated_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
