package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
)

// Store implements control.Store. It is safe for concurrent use.
type Store struct {
	// write is a single connection on SQLite; on PostgreSQL read and write are the same pool.
	write, read *sql.DB
	dialect     dialect
	reserve     *reserve // nil: none
	// lastNumber is the number of the latest row of the network log that this process has stored.
	lastNumber atomic.Int64
}

// Open connects to the database and brings its schema up to date. url is "sqlite:///absolute/path.db", taken as it is
// without percent-decoding, or "postgres://…" in any form pgx reads. A database whose schema is newer than this binary
// knows is left alone and refused. No error names a password.
func Open(ctx context.Context, url string) (*Store, error) {
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		return nil, errors.New("database URL has no scheme; want sqlite:///path or postgres://host/database")
	}
	switch scheme {
	case "sqlite":
		return openSQLite(ctx, rest)
	case "postgres", "postgresql":
		return openPostgres(ctx, url)
	}
	return nil, fmt.Errorf("database URL has scheme %q; want sqlite or postgres", scheme)
}

// Close waits for running queries and closes the database.
func (s *Store) Close() error {
	err := s.read.Close()
	if s.write != s.read {
		err = errors.Join(err, s.write.Close())
	}
	return err
}
