package store

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

// dialect is everything in which the two databases differ once they are open.
type dialect struct {
	goose goose.Dialect
	// lockRow, holdRow and reserveRow end a SELECT. lockRow keeps everyone else off the rows; holdRow keeps them from
	// being deleted; reserveRow makes those who reserve the same rows wait for each other, but lets holders pass.
	// All are empty on SQLite, where a write transaction is alone anyway.
	lockRow, holdRow, reserveRow string
}

func sqliteDialect() dialect { return dialect{goose: goose.DialectSQLite3} }

func postgresDialect() dialect {
	return dialect{
		goose:      goose.DialectPostgres,
		lockRow:    " FOR UPDATE",
		holdRow:    " FOR KEY SHARE",
		reserveRow: " FOR NO KEY UPDATE",
	}
}

// PostgreSQL's error codes that are told apart.
const (
	pgUniqueViolation      = "23505"
	pgSerializationFailure = "40001"
	pgDeadlockDetected     = "40P01"
)

// isDuplicate says whether err is a violated primary key or UNIQUE index.
func isDuplicate(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == pgUniqueViolation
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlitecode.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlitecode.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// isFull says whether there was no room left on the file system of a SQLite database; the transaction is rolled back.
func isFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlitecode.SQLITE_FULL || e.Code() == sqlitecode.SQLITE_IOERR_SHMSIZE)
}

// isTransient says whether the database gave up a transaction only because of others running at the same time: it is
// rolled back, and the same one may succeed now.
func isTransient(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == pgSerializationFailure || e.Code == pgDeadlockDetected)
}
