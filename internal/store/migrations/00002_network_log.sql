-- +goose Up
CREATE TABLE network_log (
    entry_id   BYTEA  NOT NULL PRIMARY KEY, -- the bytes of its UUID
    sandbox_id TEXT   NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
    began_at   BIGINT NOT NULL,
    number     BIGINT NOT NULL, -- rises with every row that is stored; microseconds since 1970 when they do
    kind       TEXT   NOT NULL,
    protocol   TEXT   NOT NULL,
    verdict    TEXT   NOT NULL,
    host       TEXT   NOT NULL,
    dst_ip     TEXT   NOT NULL,
    dst_port   BIGINT NOT NULL,
    match_rule TEXT   NOT NULL,
    bytes_sent BIGINT,
    bytes_recv BIGINT,
    attempts   BIGINT NOT NULL
);
CREATE INDEX network_log_newest ON network_log (sandbox_id, began_at, number);
