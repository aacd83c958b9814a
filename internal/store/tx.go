package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// writeAttempts bounds how often a transaction is run again that lost against others. PostgreSQL kills one of a
	// deadlock's two, so even under heavy load a few attempts are plenty.
	writeAttempts = 5
	retryPause    = 20 * time.Millisecond
)

// inWrite runs fn in a transaction that may write. fn may run several times and so must set its results anew each
// time. doing says in an error what failed.
func (s *Store) inWrite(ctx context.Context, doing string, fn func(*sql.Tx) error) error {
	// Read committed is what the row locks are made for; SQLite ignores the level and is always serializable.
	options := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	err := retry(ctx, func() error { return runTx(ctx, s.write, options, fn) })
	switch {
	case err == nil:
		s.reserve.refill()
	case isFull(err) && s.reserve.spend():
		err = runTx(ctx, s.write, options, fn)
	}
	return wrap(err, doing)
}

// inRead runs fn in a transaction in which all SELECTs see the same state.
func (s *Store) inRead(ctx context.Context, doing string, fn func(*sql.Tx) error) error {
	options := &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead}
	return wrap(runTx(ctx, s.read, options, fn), doing)
}

// busyRetrySeconds is when a client may try again what the database could not do. It has waited for
// sqliteBusyMillis already.
const busyRetrySeconds = 5

// wrap says in an error what failed. One that may be gone on the next try becomes unavailable.
func wrap(err error, doing string) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", doing, err)
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	var state string
	switch {
	case isFull(err):
		state = "full"
	case isBusy(err):
		state = "busy"
	case isUnreachable(err):
		state = "not reachable"
	default:
		return err
	}
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Cause: err, RetryAfterSeconds: busyRetrySeconds,
		Message: "the server's database is " + state + "; try again"}
}

func runTx(ctx context.Context, db *sql.DB, options *sql.TxOptions, fn func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing, after an error that one matters more
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// retry runs fn again, after a short random pause, while it fails with a transient error and attempts are left.
func retry(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if err == nil || !isTransient(err) || attempt == writeAttempts {
			return err
		}
		select {
		case <-time.After(rand.N(time.Duration(attempt) * retryPause)):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// exec runs one statement and returns how many rows it changed.
func exec(ctx context.Context, tx *sql.Tx, query string, args ...any) (int64, error) {
	res, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// scanner is a row of either *sql.Row or *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// querier is a pool or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// one reads the single row of a query; none is the not_found error for what.
func one[T any](ctx context.Context, q querier, what string, scan func(scanner) (*T, error), query string, args ...any) (*T, error) {
	v, err := scan(q.QueryRowContext(ctx, query, args...))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, sandbox.ErrNotFound(what)
	}
	if err != nil {
		return nil, wrap(err, "reading a "+what)
	}
	return v, nil
}

// all reads every row of a query; none is an empty slice, never nil.
func all[T any](ctx context.Context, q querier, what string, scan func(scanner) (*T, error), query string, args ...any) ([]*T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, wrap(err, "listing "+what+"s")
	}
	defer rows.Close()
	list := []*T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, wrap(err, "reading a "+what)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, wrap(err, "listing "+what+"s")
	}
	return list, nil
}

// texts reads a query's single column of text.
func texts(ctx context.Context, q querier, what, query string, args ...any) ([]string, error) {
	found, err := all(ctx, q, what, scanText, query, args...)
	if err != nil {
		return nil, err
	}
	list := make([]string, len(found))
	for i, text := range found {
		list[i] = *text
	}
	return list, nil
}

func scanText(row scanner) (*string, error) {
	var text string
	err := row.Scan(&text)
	return &text, err
}
