// Package store keeps the desired state in SQL: one database/sql implementation of control.Store for SQLite and
// PostgreSQL.
//
// The same migrations and the same queries serve both. What makes that possible: $1 placeholders, which both drivers
// take; times as microseconds since 1970 in BIGINT, UTC by construction and equal on both; JSON as opaque TEXT, never
// looked into by SQL; and no text comparison that depends on a collation. What differs (opening, row locks, error
// codes) is in dialect.
//
// Consistency: a write is one transaction. SQLite has a single writer connection whose transactions begin IMMEDIATE,
// so writes queue in the process instead of failing with SQLITE_BUSY, while reads go through connections of their own.
// PostgreSQL runs at READ COMMITTED with explicit row locks where two transactions must not pass each other: the team
// row for the quota and idempotency keys, the snapshot row between its deletion and a sandbox made from it.
//
// env_vars may hold secrets: nothing here logs, and no error holds a column's value.
package store
