-- What the wall around an attempt goes by, and what it has seen.
ALTER TABLE runs ADD COLUMN python TEXT NOT NULL DEFAULT '';               -- path of the interpreter; '' for battd's own
ALTER TABLE runs ADD COLUMN seed INTEGER;

ALTER TABLE stages ADD COLUMN cpu_limit_s REAL;                            -- NULL for no limit, here and below
ALTER TABLE stages ADD COLUMN stall_timeout_s REAL;
ALTER TABLE stages ADD COLUMN memory_limit_bytes INTEGER;
ALTER TABLE stages ADD COLUMN thread_limit INTEGER;
ALTER TABLE stages ADD COLUMN output_limit_bytes INTEGER;
ALTER TABLE stages ADD COLUMN allow_children INTEGER NOT NULL DEFAULT 0;

ALTER TABLE tasks ADD COLUMN starved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0;

ALTER TABLE attempts ADD COLUMN peak_threads INTEGER;
