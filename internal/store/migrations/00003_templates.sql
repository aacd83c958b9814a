-- Teams' templates: their builds, and what was uploaded for builds. Conventions as in 00001.

-- +goose Up
ALTER TABLE templates ADD COLUMN latest_build_id TEXT; -- no reference: builds refer to templates already

CREATE TABLE builds (
    id               TEXT   NOT NULL PRIMARY KEY,
    template_id      TEXT   NOT NULL REFERENCES templates (id) ON DELETE CASCADE,
    team_id          TEXT   NOT NULL REFERENCES teams (id),
    status           TEXT   NOT NULL,
    spec             TEXT   NOT NULL, -- JSON object
    spec_hash        TEXT   NOT NULL,
    vcpu             BIGINT NOT NULL,
    memory_mib       BIGINT NOT NULL,
    disk_mib         BIGINT NOT NULL,
    from_template_id TEXT,            -- no reference: it keeps that template only while the build runs
    error_message    TEXT   NOT NULL,
    created_at       BIGINT NOT NULL,
    started_at       BIGINT,
    finalized_at     BIGINT,
    source_digest    TEXT   NOT NULL,
    image_id         TEXT   NOT NULL,
    checkpoint_id    TEXT   NOT NULL
);
CREATE INDEX builds_template ON builds (template_id, created_at, id);
CREATE INDEX builds_running ON builds (team_id, created_at) WHERE status IN ('pending', 'building', 'snapshotting');

CREATE TABLE uploads (
    team_id    TEXT   NOT NULL REFERENCES teams (id),
    kind       TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    size_bytes BIGINT NOT NULL,
    sent_at    BIGINT NOT NULL,
    PRIMARY KEY (team_id, kind, digest)
);

-- Which uploads a build names: they stay as long as it does.
CREATE TABLE build_uploads (
    build_id TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    team_id  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    digest   TEXT NOT NULL,
    PRIMARY KEY (build_id, kind, digest),
    FOREIGN KEY (team_id, kind, digest) REFERENCES uploads (team_id, kind, digest)
);
CREATE INDEX build_uploads_upload ON build_uploads (team_id, kind, digest);
