//! Schemas, numbered. A migration is never changed once it has been released; a new one is added below it.

use super::StoreError;
use super::open::checking;
use rusqlite::Connection;
use std::path::Path;

/// `application_id` of our databases: "ACRT".
const APPLICATION_ID: i32 = 0x4143_5254;

/// What brings schema N to N+1.
const MIGRATIONS: &[&str] = &[
    FIRST,
    OWNERS,
    ACCESS_KEYS,
    AUDIT,
    CONTROL,
    MAKERS,
    TASKS,
    FROZEN,
    MEMO,
    USAGE,
    BUDGETS,
    ALLOWANCES,
    POOL,
    TEMPLATES,
    FROZEN_BOOT,
    POOL_CPU,
];

/// Times are milliseconds since the epoch, sizes bytes. STRICT, so that a type error is an error and damage shows.
const FIRST: &str = "
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE artifacts (
    id             TEXT NOT NULL PRIMARY KEY CHECK (length(id) = 64),
    packed_bytes   INTEGER NOT NULL CHECK (packed_bytes >= 0),
    unpacked_bytes INTEGER NOT NULL CHECK (unpacked_bytes >= 0),
    entries        INTEGER NOT NULL CHECK (entries >= 0),
    created_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A deleted runtime's row stays as long as a session row refers to it; its name is free at once.
CREATE TABLE runtimes (
    seq        INTEGER NOT NULL PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    arn        TEXT NOT NULL,
    latest     INTEGER NOT NULL CHECK (latest BETWEEN 1 AND 99999),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;
CREATE UNIQUE INDEX runtimes_by_name ON runtimes (name) WHERE deleted_at IS NULL;

-- No foreign key on artifact: a deleted runtime's versions do not keep its artifacts.
CREATE TABLE versions (
    runtime    INTEGER NOT NULL REFERENCES runtimes (seq) ON DELETE CASCADE,
    number     INTEGER NOT NULL CHECK (number BETWEEN 1 AND 99999),
    config     TEXT NOT NULL CHECK (json_valid(config)),
    artifact   TEXT NOT NULL CHECK (length(artifact) = 64),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (runtime, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX versions_by_artifact ON versions (artifact);

-- ended_at IS NULL: the session may live, and its uid range is its own.
CREATE TABLE sessions (
    seq                INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id                 TEXT NOT NULL UNIQUE,
    client_id          TEXT NOT NULL,
    runtime            INTEGER NOT NULL REFERENCES runtimes (seq),
    version            INTEGER NOT NULL,
    endpoint           TEXT NOT NULL,
    uid_base           INTEGER NOT NULL CHECK (uid_base BETWEEN 1 AND 4294967294),
    boot_id            TEXT NOT NULL,
    token              TEXT,
    pid                INTEGER,
    start_time         INTEGER,
    cgroup_inode       INTEGER,
    phase              TEXT NOT NULL,
    created_at         INTEGER NOT NULL,
    ended_at           INTEGER,
    reason             TEXT,
    detail             TEXT,
    cpu_seconds        REAL NOT NULL DEFAULT 0,
    memory_peak_bytes  INTEGER NOT NULL DEFAULT 0,
    oom_kills          INTEGER NOT NULL DEFAULT 0,
    egress_refused     INTEGER NOT NULL DEFAULT 0,
    log_lines_dropped  INTEGER NOT NULL DEFAULT 0,
    CHECK ((ended_at IS NULL) = (reason IS NULL))
) STRICT;
CREATE UNIQUE INDEX sessions_live_uids ON sessions (uid_base) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX sessions_live_clients ON sessions (runtime, endpoint, client_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_client ON sessions (client_id);
CREATE INDEX sessions_by_runtime ON sessions (runtime, seq);
CREATE INDEX sessions_by_end ON sessions (ended_at) WHERE ended_at IS NOT NULL;
";

/// Whose a session is, part of its key: [`crate::owner::Owner::key`].
const OWNERS: &str = "
ALTER TABLE sessions ADD COLUMN owner TEXT NOT NULL DEFAULT '';
DROP INDEX sessions_live_clients;
CREATE UNIQUE INDEX sessions_live_clients ON sessions (runtime, endpoint, client_id, owner) WHERE ended_at IS NULL;
";

/// `sealed`: nonce, ciphertext and tag (`crate::keys`), empty once revoked. A limit that is NULL is none.
const ACCESS_KEYS: &str = "
CREATE TABLE access_keys (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    sealed     BLOB NOT NULL,
    runtimes   TEXT CHECK (runtimes IS NULL OR json_valid(runtimes)),
    actions    TEXT CHECK (actions IS NULL OR json_valid(actions)),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;
";

/// Refusals: who was turned away, where, and why.
const AUDIT: &str = "
CREATE TABLE audit (
    seq        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    status     INTEGER NOT NULL,
    code       TEXT NOT NULL,
    reason     TEXT NOT NULL,
    caller     TEXT,
    peer       TEXT NOT NULL,
    method     TEXT NOT NULL,
    path       TEXT NOT NULL
) STRICT;
";

/// The control plane (contract §3): how a version came to be served, and what is kept beside versions.
const CONTROL: &str = "
-- MAKING: being unpacked and warmed up; FAILED: never served, and why. `typed` is what the AWS wire said of it.
ALTER TABLE versions ADD COLUMN state TEXT NOT NULL DEFAULT 'READY' CHECK (state IN ('MAKING', 'READY', 'FAILED'));
ALTER TABLE versions ADD COLUMN failure TEXT;
ALTER TABLE versions ADD COLUMN typed TEXT CHECK (typed IS NULL OR json_valid(typed));

-- DEFAULT has no row: it follows the newest version that is READY.
CREATE TABLE endpoints (
    runtime     INTEGER NOT NULL REFERENCES runtimes (seq) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    id          TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version BETWEEN 1 AND 99999),
    description TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (runtime, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE tags (
    arn   TEXT NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (arn, key)
) STRICT, WITHOUT ROWID;

-- What a caller's token was used for, and what was answered.
CREATE TABLE client_tokens (
    caller     TEXT NOT NULL,
    operation  TEXT NOT NULL,
    token      TEXT NOT NULL,
    digest     TEXT NOT NULL,
    answer     TEXT NOT NULL CHECK (json_valid(answer)),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (caller, operation, token)
) STRICT, WITHOUT ROWID;
CREATE INDEX client_tokens_by_age ON client_tokens (created_at);

-- Files of the S3 subset; their bytes are in objects/<version>.
CREATE TABLE objects (
    bucket       TEXT NOT NULL,
    key          TEXT NOT NULL,
    version      TEXT NOT NULL UNIQUE,
    etag         TEXT NOT NULL,
    sha256       TEXT NOT NULL CHECK (length(sha256) = 64),
    size         INTEGER NOT NULL CHECK (size >= 0),
    content_type TEXT,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (bucket, key)
) STRICT, WITHOUT ROWID;
";

/// Whose an object is ([`crate::owner::Principal`]; those from before are nobody's, and so operators'), and which ones a key
/// is limited to. Actions had one service's name before them, whosever they were: without it they mean what they meant.
const MAKERS: &str = "
ALTER TABLE objects ADD COLUMN maker TEXT NOT NULL DEFAULT '';
ALTER TABLE access_keys ADD COLUMN objects TEXT CHECK (objects IS NULL OR json_valid(objects));
UPDATE access_keys SET actions = replace(actions, '\"bedrock-agentcore:', '\"') WHERE actions IS NOT NULL;
UPDATE access_keys SET actions = json_insert(actions, '$[#]', 's3:DeleteObject')
    WHERE EXISTS (SELECT 1 FROM json_each(actions) WHERE 'PutObject' GLOB value);
UPDATE access_keys SET actions = json_insert(actions, '$[#]', 's3:ListBucket')
    WHERE EXISTS (SELECT 1 FROM json_each(actions) WHERE 'GetObject' GLOB value);
";

/// That a live session is frozen, by whom (`operator`, `budget`, both with a comma, or `idle`), since when and why: written down
/// before it is frozen, and taken away after it is thawed.
const FROZEN: &str = "
ALTER TABLE sessions ADD COLUMN frozen_by TEXT;
ALTER TABLE sessions ADD COLUMN frozen_at INTEGER;
ALTER TABLE sessions ADD COLUMN frozen_reason TEXT;
";

/// What a daemon that finds a live session again cannot see (`store/memo.rs`). Those from before count as they did: launched, they
/// were ready.
const MEMO: &str = "
ALTER TABLE sessions ADD COLUMN was_ready INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN mcp TEXT;
UPDATE sessions SET was_ready = 1 WHERE ended_at IS NULL AND pid IS NOT NULL;
";

/// The ledger (`crate::ledger`). Sums are those of `session_core::meter::Totals`.
const USAGE: &str = "
-- Whom usage is counted for. A row outlives the session's own, and its runtime.
CREATE TABLE usage_subjects (
    ref        INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    session    TEXT NOT NULL UNIQUE,
    client_id  TEXT NOT NULL,
    runtime    TEXT NOT NULL,
    runtime_id TEXT NOT NULL,
    version    INTEGER NOT NULL,
    endpoint   TEXT NOT NULL,
    owner      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_subjects_by_runtime ON usage_subjects (runtime, ref);
CREATE INDEX usage_subjects_by_owner ON usage_subjects (owner, ref);
CREATE INDEX usage_subjects_by_time ON usage_subjects (created_at, ref);

-- Parts of sessions, none longer than a day; reason IS NULL: the session lives on. Numbers have no gap.
CREATE TABLE usage_sessions (
    seq                  INTEGER NOT NULL PRIMARY KEY,
    subject              INTEGER NOT NULL REFERENCES usage_subjects (ref),
    at                   INTEGER NOT NULL,
    reason               TEXT,
    wall_ms              INTEGER NOT NULL,
    active_ms            INTEGER NOT NULL,
    frozen_ms            INTEGER NOT NULL,
    cpu_us               INTEGER NOT NULL,
    memory_kbs           INTEGER NOT NULL,
    memory_peak_kbs      INTEGER NOT NULL,
    memory_aws_kbs       INTEGER NOT NULL,
    allocated_memory_kbs INTEGER NOT NULL,
    allocated_cpu_ms     INTEGER NOT NULL,
    invocations          INTEGER NOT NULL,
    bytes_in             INTEGER NOT NULL,
    bytes_out            INTEGER NOT NULL,
    egress_in            INTEGER NOT NULL,
    egress_out           INTEGER NOT NULL,
    peak_bytes           INTEGER NOT NULL,
    tmp_bytes            INTEGER NOT NULL,
    mac                  BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT;
CREATE INDEX usage_sessions_by_subject ON usage_sessions (subject);

-- Invocations; `count` > 1: several that came too fast to be told apart.
CREATE TABLE usage_invocations (
    seq       INTEGER NOT NULL PRIMARY KEY,
    subject   INTEGER NOT NULL REFERENCES usage_subjects (ref),
    at        INTEGER NOT NULL,
    task      TEXT,
    count     INTEGER NOT NULL,
    wall_ms   INTEGER NOT NULL,
    bytes_in  INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    cpu_us    INTEGER NOT NULL,
    mac       BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT;
CREATE INDEX usage_invocations_by_subject ON usage_invocations (subject, seq);
CREATE INDEX usage_invocations_by_task ON usage_invocations (task) WHERE task IS NOT NULL;

-- Sums of usage_sessions by day, kept with every record. dimension 0: of all; 1: of a runtime, by name; 2: of an owner.
CREATE TABLE usage_sums (
    dimension            INTEGER NOT NULL CHECK (dimension BETWEEN 0 AND 2),
    key                  TEXT NOT NULL,
    day                  INTEGER NOT NULL,
    sessions             INTEGER NOT NULL,
    wall_ms              INTEGER NOT NULL,
    active_ms            INTEGER NOT NULL,
    frozen_ms            INTEGER NOT NULL,
    cpu_us               INTEGER NOT NULL,
    memory_kbs           INTEGER NOT NULL,
    memory_peak_kbs      INTEGER NOT NULL,
    memory_aws_kbs       INTEGER NOT NULL,
    allocated_memory_kbs INTEGER NOT NULL,
    allocated_cpu_ms     INTEGER NOT NULL,
    invocations          INTEGER NOT NULL,
    bytes_in             INTEGER NOT NULL,
    bytes_out            INTEGER NOT NULL,
    egress_in            INTEGER NOT NULL,
    egress_out           INTEGER NOT NULL,
    peak_bytes           INTEGER NOT NULL,
    tmp_bytes            INTEGER NOT NULL,
    mac                  BLOB NOT NULL CHECK (length(mac) = 32),
    PRIMARY KEY (dimension, key, day)
) STRICT, WITHOUT ROWID;

-- Meters of live sessions: what a daemon that was killed leaves to the next.
CREATE TABLE usage_meters (
    subject  INTEGER NOT NULL PRIMARY KEY REFERENCES usage_subjects (ref),
    boot_id  TEXT NOT NULL,
    boot_ms  INTEGER NOT NULL,
    saved_at INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (json_valid(state)),
    mac      BLOB NOT NULL CHECK (length(mac) = 32)
) STRICT;

-- Up to which record a chain was removed for its age, and the last day that they were of.
CREATE TABLE usage_anchors (
    chain TEXT NOT NULL PRIMARY KEY,
    seq   INTEGER NOT NULL,
    day   INTEGER NOT NULL,
    mac   BLOB NOT NULL CHECK (length(mac) = 32),
    seal  BLOB NOT NULL CHECK (length(seal) = 32)
) STRICT, WITHOUT ROWID;
";

/// How often budgets were approved: each adds the same amount once more.
const BUDGETS: &str = "
CREATE TABLE budget_approvals (
    scope TEXT NOT NULL CHECK (scope IN ('session', 'user', 'runtime')),
    key   TEXT NOT NULL,
    times INTEGER NOT NULL,
    at    INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
";

/// The same of budgets that runtimes have set, and of budgets that begin anew with each day or month.
const ALLOWANCES: &str = "
CREATE TABLE budget_allowances (
    set_by TEXT NOT NULL,
    scope  TEXT NOT NULL CHECK (scope IN ('session', 'user', 'runtime')),
    key    TEXT NOT NULL,
    since  INTEGER NOT NULL,
    times  INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (set_by, scope, key, since)
) STRICT, WITHOUT ROWID;
INSERT INTO budget_allowances SELECT '', scope, key, 0, times, at FROM budget_approvals;
DROP TABLE budget_approvals;
";

/// How long a live session waited in a pool before it was somebody's (`created_at` is when it became so). One that waits has the
/// pool's owner ([`crate::owner::Owner::pool`]).
const POOL: &str = "
ALTER TABLE sessions ADD COLUMN waited_ms INTEGER NOT NULL DEFAULT 0 CHECK (waited_ms >= 0);
";

/// Of which template a live session's agent is a fork: that one must not end before it.
const TEMPLATES: &str = "
ALTER TABLE sessions ADD COLUMN template TEXT;
";

/// Since when a session is frozen, by the clock that no step of the wall clock moves.
const FROZEN_BOOT: &str = "
ALTER TABLE sessions ADD COLUMN frozen_boot_ms INTEGER;
";

/// How much CPU time a session had used when it was claimed: what it uses from then on is its caller's.
const POOL_CPU: &str = "
ALTER TABLE sessions ADD COLUMN waited_cpu_us INTEGER NOT NULL DEFAULT 0;
";

fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Tasks. Statuses are numbers in the order of `proto::api::TaskStatus`: below 3 a task has no outcome. `seq` is the order of
/// submission and never given twice, so whoever knows the last one finds all that came later. What is large has tables of its
/// own, so that a change of status writes a small row.
const TASKS: &str = "
CREATE TABLE tasks (
    seq               INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id                TEXT NOT NULL UNIQUE CHECK (length(id) = 26),
    kind              INTEGER NOT NULL CHECK (kind BETWEEN 0 AND 1),
    status            INTEGER NOT NULL CHECK (status BETWEEN 0 AND 7),
    runtime           TEXT NOT NULL,
    runtime_id        TEXT NOT NULL,
    endpoint          TEXT NOT NULL,
    client_id         TEXT NOT NULL,
    own_session       INTEGER NOT NULL,
    owner             TEXT NOT NULL CHECK (json_valid(owner)),
    once              TEXT,
    digest            BLOB NOT NULL,
    headers           TEXT NOT NULL CHECK (json_valid(headers)),
    payload_bytes     INTEGER NOT NULL CHECK (payload_bytes >= 0),
    payload_filed     INTEGER NOT NULL,
    retries           INTEGER NOT NULL,
    backoff_ms        INTEGER NOT NULL,
    attempts          INTEGER NOT NULL DEFAULT 0,
    retried           INTEGER NOT NULL DEFAULT 0,
    not_before        INTEGER NOT NULL,
    reason            TEXT,
    session           TEXT,
    invocation        INTEGER,
    created_at        INTEGER NOT NULL,
    started_at        INTEGER,
    attempt_at        INTEGER,
    finished_at       INTEGER,
    deadline_at       INTEGER NOT NULL,
    expires_at        INTEGER,
    run_ms            INTEGER NOT NULL DEFAULT 0,
    progress          TEXT,
    progress_at       INTEGER,
    events            INTEGER NOT NULL DEFAULT 1,
    result_status     INTEGER,
    result_type       TEXT,
    result_bytes      INTEGER NOT NULL DEFAULT 0,
    result_filed      INTEGER NOT NULL DEFAULT 0,
    result_complete   INTEGER NOT NULL DEFAULT 0,
    callback          TEXT,
    callback_state    INTEGER NOT NULL DEFAULT 0 CHECK (callback_state BETWEEN 0 AND 3),
    callback_attempts INTEGER NOT NULL DEFAULT 0,
    callback_at       INTEGER,
    callback_error    TEXT,
    CHECK ((status >= 3) = (finished_at IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX tasks_once ON tasks (owner, runtime_id, once) WHERE once IS NOT NULL;
CREATE INDEX tasks_unfinished ON tasks (seq) WHERE status < 3;
CREATE INDEX tasks_unsuccessful ON tasks (status, seq) WHERE status > 3;
CREATE INDEX tasks_by_runtime ON tasks (runtime, seq);
CREATE INDEX tasks_by_session ON tasks (client_id, seq);
CREATE INDEX tasks_expiring ON tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX tasks_calling ON tasks (callback_at) WHERE callback_state = 1;

CREATE TABLE task_payloads (
    task INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE task_results (
    task INTEGER NOT NULL PRIMARY KEY REFERENCES tasks (seq) ON DELETE CASCADE,
    body BLOB NOT NULL
) STRICT;

-- The first event, that it was submitted, is the task's own row. status IS NULL: a progress record.
CREATE TABLE task_events (
    task    INTEGER NOT NULL REFERENCES tasks (seq) ON DELETE CASCADE,
    id      INTEGER NOT NULL,
    at      INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status  INTEGER,
    body    TEXT,
    PRIMARY KEY (task, id)
) STRICT, WITHOUT ROWID;
";

/// Refuses a database that is not ours or that a newer daemon has written.
pub(super) fn check_identity(db: &Connection, path: &Path) -> Result<(), StoreError> {
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let application_id = checking(path, pragma("application_id"))?;
    if application_id != i64::from(APPLICATION_ID) {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            detail: format!("its application id is {application_id:#x}"),
        });
    }
    let found = checking(path, pragma("user_version"))?;
    if found > newest() {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known: newest(),
        });
    }
    if found < 1 {
        return Err(StoreError::Corrupt {
            path: path.to_owned(),
            detail: format!("it claims schema {found}"),
        });
    }
    Ok(())
}

/// Brings the schema up to date, in one transaction: a file that cannot be brought there stays as it was.
pub(super) fn run(db: &Connection) -> Result<(), StoreError> {
    let current: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(current).unwrap_or(0);
    let missing = MIGRATIONS.get(done..).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let schema = newest();
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; {}
         PRAGMA user_version = {schema}; PRAGMA application_id = {APPLICATION_ID}; COMMIT;",
        missing.concat()
    ))
    .inspect_err(|_| {
        // The error at hand says what went wrong; that the rollback fails as well adds nothing.
        let _ = db.execute_batch("ROLLBACK");
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::open;

    /// A database of the first schema, and what else was done to it.
    fn first(path: &Path, more: &str) {
        let db = Connection::open(path).expect("made");
        db.execute_batch(&format!(
            "{FIRST} PRAGMA user_version = 1; PRAGMA application_id = {APPLICATION_ID}; {more}"
        ))
        .expect("written");
    }

    #[test]
    fn an_older_database_is_brought_up_to_date() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("db");
        first(&path, "INSERT INTO meta (key, value) VALUES ('epoch', 7);");
        let db = open::writer(&path).expect("opened");
        let of = |query: &str| db.query_row(query, [], |row| row.get::<_, i64>(0));
        assert_eq!(of("PRAGMA user_version"), Ok(newest()));
        assert_eq!(of("SELECT value FROM meta WHERE key = 'epoch'"), Ok(7));
        assert_eq!(of("SELECT count(*) FROM access_keys"), Ok(0));
    }

    #[test]
    fn keys_from_before_actions_had_a_service_may_do_what_they_might() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("db");
        first(
            &path,
            &format!(
                "{OWNERS}{ACCESS_KEYS}{AUDIT}{CONTROL} PRAGMA user_version = 5;
                 INSERT INTO access_keys (id, name, sealed, actions, created_at) VALUES
                     ('a', 'a', x'', '[\"bedrock-agentcore:Get*\",\"bedrock-agentcore:PutObject\"]', 1),
                     ('b', 'b', x'', NULL, 1);
                 INSERT INTO objects (bucket, key, version, etag, sha256, size, created_at)
                     VALUES ('code', 'k', 'v', 'e', printf('%064d', 0), 1, 1);"
            ),
        );
        let db = open::writer(&path).expect("opened");
        let of = |query: &str| db.query_row(query, [], |row| row.get::<_, Option<String>>(0));
        let actions = |id: &str| {
            of(&format!(
                "SELECT actions FROM access_keys WHERE id = '{id}'"
            ))
        };
        // Who might put might delete, and who might get might list.
        let kept = r#"["Get*","PutObject","s3:DeleteObject","s3:ListBucket"]"#;
        assert_eq!(actions("a"), Ok(Some(kept.to_owned())));
        assert_eq!(actions("b"), Ok(None));
        assert_eq!(
            of("SELECT objects FROM access_keys WHERE id = 'a'"),
            Ok(None)
        );
        assert_eq!(of("SELECT maker FROM objects"), Ok(Some(String::new())));
    }

    #[test]
    fn one_that_cannot_be_stays_as_it_was() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("db");
        // A later step than the next one stumbles over it.
        first(&path, "CREATE TABLE tags (arn TEXT);");
        let before = std::fs::read(&path).expect("read");
        open::writer(&path).expect_err("refused");
        assert!(before == std::fs::read(&path).expect("read"), "changed");
    }
}
