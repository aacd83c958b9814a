package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// sqliteBusyMillis is how long a statement waits for another process, such as the key command next to a server.
	sqliteBusyMillis = 15000
	sqliteReaders    = 4
	flockPoll        = 20 * time.Millisecond
)

func openSQLite(ctx context.Context, path string) (*Store, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("SQLite database %q: the path must be absolute, as in sqlite:///var/lib/superserve/state.db", path)
	}
	if err := makePrivate(path); err != nil {
		return nil, fmt.Errorf("preparing the SQLite database: %w", err)
	}
	kept := &reserve{path: path + ".reserve"}
	s, err := openSQLiteFile(ctx, path)
	if isFull(err) && kept.spend() {
		s, err = openSQLiteFile(ctx, path)
	}
	if err != nil {
		return nil, err
	}
	s.reserve = kept
	s.reserve.fill()
	return s, nil
}

func openSQLiteFile(ctx context.Context, path string) (*Store, error) {
	// FULL: a transaction that was acknowledged survives a power cut, also in WAL mode.
	write, err := openSQLitePool(path, 1, url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	})
	if err != nil {
		return nil, err
	}
	if err := migrateSQLite(ctx, write, path); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read, err := openSQLitePool(path, sqliteReaders, url.Values{"_pragma": {"query_only(1)"}})
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	return &Store{write: write, read: read, dialect: sqliteDialect()}, nil
}

func openSQLitePool(path string, connections int, options url.Values) (*sql.DB, error) {
	options.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", sqliteBusyMillis))
	name := url.URL{Scheme: "file", Path: path, RawQuery: options.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, fmt.Errorf("opening the SQLite database: %w", err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// makePrivate creates the file before SQLite would, with its own mode; SQLite gives the -wal and -shm files the same.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

// migrateSQLite keeps two processes from migrating at once by a lock on a file of its own: one on the database file
// itself would take away SQLite's locks when it is closed.
func migrateSQLite(ctx context.Context, db *sql.DB, path string) error {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the migration lock: %w", err)
	}
	defer lock.Close() // also unlocks
	if err := flock(ctx, lock); err != nil {
		return fmt.Errorf("taking the migration lock: %w", err)
	}
	return migrate(ctx, db, sqliteDialect())
}

// flock waits for an exclusive lock. It polls, because a blocking flock can't be told that ctx is over.
func flock(ctx context.Context, f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(flockPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
