-- One file for SQLite and PostgreSQL. Times (*_at, *_since) are microseconds since 1970-01-01 UTC; JSON is TEXT;
-- BYTEA is PostgreSQL's name for bytes, and SQLite takes any type name.

-- +goose Up
CREATE TABLE teams (
    id         TEXT   NOT NULL PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE templates (
    id            TEXT   NOT NULL PRIMARY KEY,
    team_id       TEXT   REFERENCES teams (id), -- NULL: a system template
    name          TEXT   NOT NULL,
    status        TEXT   NOT NULL,
    vcpu          BIGINT NOT NULL,
    memory_mib    BIGINT NOT NULL,
    disk_mib      BIGINT NOT NULL,
    size_bytes    BIGINT NOT NULL,
    error_message TEXT   NOT NULL,
    created_at    BIGINT NOT NULL,
    built_at      BIGINT,
    image_id      TEXT   NOT NULL,
    checkpoint_id TEXT   NOT NULL,
    env           TEXT   NOT NULL, -- JSON object
    run_user      TEXT   NOT NULL,
    workdir       TEXT   NOT NULL
);
-- coalesce, because a UNIQUE index lets NULLs repeat.
CREATE UNIQUE INDEX templates_name ON templates (coalesce(team_id, ''), name);

CREATE TABLE snapshots (
    id          TEXT   NOT NULL PRIMARY KEY,
    team_id     TEXT   NOT NULL REFERENCES teams (id),
    sandbox_id  TEXT   NOT NULL, -- no reference: a snapshot may outlive the sandbox it was taken of
    template_id TEXT   NOT NULL REFERENCES templates (id),
    vcpu        BIGINT NOT NULL,
    memory_mib  BIGINT NOT NULL,
    disk_mib    BIGINT NOT NULL,
    size_bytes  BIGINT NOT NULL,
    created_at  BIGINT NOT NULL
);
CREATE INDEX snapshots_template ON snapshots (template_id);

CREATE TABLE sandboxes (
    id                  TEXT   NOT NULL PRIMARY KEY,
    team_id             TEXT   NOT NULL REFERENCES teams (id),
    name                TEXT   NOT NULL,
    state               TEXT   NOT NULL,
    generation          BIGINT NOT NULL,
    token_version       BIGINT NOT NULL,
    vcpu                BIGINT NOT NULL,
    memory_mib          BIGINT NOT NULL,
    disk_mib            BIGINT NOT NULL,
    template_id         TEXT   NOT NULL REFERENCES templates (id),
    snapshot_id         TEXT   REFERENCES snapshots (id),
    source_snapshot_id  TEXT, -- no reference: kept for clients after the sandbox has a snapshot of its own
    created_at          BIGINT NOT NULL,
    active_since        BIGINT NOT NULL,
    paused_at           BIGINT,
    timeout_seconds     BIGINT,
    timeout_action      TEXT   NOT NULL,
    auto_delete_seconds BIGINT,
    metadata            TEXT   NOT NULL, -- JSON object
    env_vars            TEXT   NOT NULL, -- JSON object
    network             TEXT,            -- JSON object; NULL: the default policy
    failure_reason      TEXT   NOT NULL,
    due_at              BIGINT           -- Sandbox.DueAt()
);
CREATE INDEX sandboxes_team_newest ON sandboxes (team_id, created_at, id);
CREATE INDEX sandboxes_newest ON sandboxes (created_at, id);
CREATE INDEX sandboxes_due ON sandboxes (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX sandboxes_template ON sandboxes (template_id);
CREATE INDEX sandboxes_snapshot ON sandboxes (snapshot_id) WHERE snapshot_id IS NOT NULL;
CREATE INDEX sandboxes_source_snapshot ON sandboxes (source_snapshot_id) WHERE source_snapshot_id IS NOT NULL;

-- The metadata filter's index: one row for each key of a sandbox's metadata. entry is a SHA-256 over key and value.
CREATE TABLE sandbox_metadata (
    sandbox_id TEXT  NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    entry      BYTEA NOT NULL,
    PRIMARY KEY (sandbox_id, entry)
);
CREATE INDEX sandbox_metadata_entry ON sandbox_metadata (entry, sandbox_id);

CREATE TABLE idempotency_keys (
    team_id    TEXT   NOT NULL REFERENCES teams (id),
    key        BYTEA  NOT NULL, -- a header's value may be any bytes
    body_hash  BYTEA  NOT NULL,
    sandbox_id TEXT   NOT NULL, -- no reference: a key is remembered after its sandbox is gone
    used_at    BIGINT NOT NULL,
    PRIMARY KEY (team_id, key)
);
CREATE INDEX idempotency_keys_sandbox ON idempotency_keys (sandbox_id);
CREATE INDEX idempotency_keys_used ON idempotency_keys (used_at);

CREATE TABLE api_keys (
    id           TEXT   NOT NULL PRIMARY KEY,
    team_id      TEXT   NOT NULL REFERENCES teams (id),
    name         TEXT   NOT NULL,
    prefix       TEXT   NOT NULL,
    hash         BYTEA  NOT NULL UNIQUE, -- SHA-256 of the key's text
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);
CREATE INDEX api_keys_team ON api_keys (team_id, created_at);

CREATE TABLE settings (
    name  TEXT  NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
);
