package store

import (
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"slices"
	"strings"

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
	pgTooManyConnections   = "53300"
	pgDiskFull             = "53100"
	pgLockNotAvailable     = "55P03"
	pgConnectionClass      = "08" // its codes begin with it
)

// pgStopping are the codes of a server that stops, has crashed or is not up yet.
func pgStopping() []string { return []string{"57P01", "57P02", "57P03"} }

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

// isFull says whether there was no room left on the file system of the database; the transaction is rolled back.
func isFull(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == pgDiskFull
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && (e.Code() == sqlitecode.SQLITE_FULL || e.Code() == sqlitecode.SQLITE_IOERR_SHMSIZE)
}

// damageHint says what to do about a database file that is none, "" when err is about something else.
func damageHint(err error) string {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok || e.Code()&0xff != sqlitecode.SQLITE_NOTADB && e.Code()&0xff != sqlitecode.SQLITE_CORRUPT {
		return ""
	}
	return ": the file is damaged or no SQLite database; put a backup of it, with its -wal file if there is one, in its place"
}

// isBusy says whether others kept the database locked or took all its connections for longer than is waited.
func isBusy(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		primary := e.Code() & 0xff // the rest tells kinds apart
		return primary == sqlitecode.SQLITE_BUSY || primary == sqlitecode.SQLITE_LOCKED
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == pgTooManyConnections || e.Code == pgLockNotAvailable) || isTransient(err)
}

// isUnreachable says whether there is no PostgreSQL to talk to, or it ended the session because it stops or starts.
func isUnreachable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(e.Code, pgConnectionClass) || slices.Contains(pgStopping(), e.Code)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	_, ok := errors.AsType[*net.OpError](err)
	return ok || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isTransient says whether the database gave up a transaction only because of others running at the same time: it is
// rolled back, and the same one may succeed now.
func isTransient(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == pgSerializationFailure || e.Code == pgDeadlockDetected)
}
