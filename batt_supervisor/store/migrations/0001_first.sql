CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    submit_key TEXT UNIQUE,            -- a submission repeated with it creates nothing
    cwd TEXT NOT NULL,
    env TEXT NOT NULL,                 -- JSON object: what the run sets over battd's environment
    task_count INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    sealed_at_ms INTEGER,              -- nothing starts before
    deadline_s REAL,
    deadline_at_ms INTEGER,            -- counted from sealing
    closing TEXT,                      -- 'cancel' or 'deadline', once nothing more of it may start
    deadline_cut INTEGER NOT NULL DEFAULT 0,
    ended_at_ms INTEGER
) STRICT;
CREATE INDEX runs_open ON runs (id) WHERE ended_at_ms IS NULL;
CREATE INDEX runs_by_name ON runs (name, id);

CREATE TABLE stages (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    function TEXT,
    command TEXT,                      -- JSON array of words
    shell INTEGER NOT NULL,
    timeout_s REAL NOT NULL,
    soft_timeout_s REAL,
    max_attempts INTEGER NOT NULL,
    retry_delay_s REAL NOT NULL,
    after TEXT NOT NULL,               -- JSON array of the numbers of stages that must have ended
    PRIMARY KEY (run_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,              -- from 0, in order of submission
    stage INTEGER NOT NULL,
    task_key TEXT,
    args TEXT NOT NULL,                -- JSON
    state TEXT NOT NULL,
    moved_at_ms INTEGER NOT NULL,      -- when it got into this state
    run_at_ms INTEGER,                 -- for 'scheduled': not before
    attempt INTEGER NOT NULL DEFAULT 0,
    charged INTEGER NOT NULL DEFAULT 0,
    resource INTEGER NOT NULL DEFAULT 0,
    uncharged INTEGER NOT NULL DEFAULT 0,
    outcome TEXT,                      -- of the last attempt that ended, or 'cancelled'
    reason TEXT,
    settled_seq INTEGER,               -- order in which tasks of all runs settled
    UNIQUE (run_id, idx)
) STRICT;
CREATE INDEX tasks_queued ON tasks (run_id, idx) WHERE state = 'queued';
CREATE INDEX tasks_scheduled ON tasks (run_at_ms) WHERE state = 'scheduled';
CREATE INDEX tasks_waiting ON tasks (run_id, stage) WHERE state = 'waiting';
CREATE INDEX tasks_live ON tasks (run_id) WHERE state IN ('running', 'stopping');
CREATE INDEX tasks_settled ON tasks (run_id, settled_seq) WHERE settled_seq IS NOT NULL;

CREATE TABLE attempts (
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,           -- from 1
    claimed_at_ms INTEGER NOT NULL,
    ended_at_ms INTEGER,
    outcome TEXT,
    reason TEXT,
    wall_s REAL,
    cpu_s REAL,
    peak_memory_bytes INTEGER,
    exit_code INTEGER,
    signal TEXT,
    error TEXT,                        -- JSON: type, message, traceback
    worker_pid INTEGER,
    worker_started INTEGER,            -- clock ticks since boot: with the pid it names one process
    log TEXT,                          -- file below logs/
    log_from INTEGER,
    log_to INTEGER,
    PRIMARY KEY (task_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE results (
    task_id INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    value TEXT,                        -- JSON, or NULL when it is in a file
    file TEXT                          -- name below results/
) STRICT;

-- How many tasks stand where, kept in the transaction that moves them, so that nobody ever counts rows.
CREATE TABLE tallies (
    run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    stage INTEGER NOT NULL,
    state TEXT NOT NULL,
    outcome TEXT NOT NULL,             -- '' while there is none
    count INTEGER NOT NULL,
    PRIMARY KEY (run_id, stage, state, outcome)
) STRICT, WITHOUT ROWID;

CREATE TABLE counters (settled_seq INTEGER NOT NULL) STRICT;
INSERT INTO counters VALUES (0);
