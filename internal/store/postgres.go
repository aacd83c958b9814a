package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	postgresConnections = 16
	postgresIdle        = 4
	postgresIdleTime    = 5 * time.Minute
	// migrationLock is the advisory lock that servers starting at once take in turn. Any number would do; it only has
	// to be the same in every version.
	migrationLock = 0x7375706572736572 // "superser"
)

func openPostgres(ctx context.Context, url string) (*Store, error) {
	config, err := pgx.ParseConfig(url) // its error masks the password
	if err != nil {
		return nil, fmt.Errorf("reading the database URL: %w", err)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "superserve"
	}
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(commitDurably))
	db.SetMaxOpenConns(postgresConnections)
	db.SetMaxIdleConns(postgresIdle)
	db.SetConnMaxIdleTime(postgresIdleTime)
	if err := preparePostgres(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Store{write: db, read: db, dialect: postgresDialect()}, nil
}

// commitDurably has the sessions of a database that is set to answer before a transaction is on the disk wait for that:
// files are removed on the word of rows. A setting that waits for more, such as for a replica, stays.
func commitDurably(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	if err != nil {
		return fmt.Errorf("having PostgreSQL commit durably: %w", err)
	}
	return nil
}

func preparePostgres(ctx context.Context, db *sql.DB) (err error) {
	// The advisory lock belongs to a session, so it needs a connection that nobody else gets.
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()

	var encoding string
	if err := conn.QueryRowContext(ctx, "SHOW server_encoding").Scan(&encoding); err != nil {
		return fmt.Errorf("asking PostgreSQL for its encoding: %w", err)
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the PostgreSQL database has encoding %s; make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", encoding)
	}
	if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
		return fmt.Errorf("waiting for the migration lock: %w", err)
	}
	defer func() {
		// Also when ctx is over: the connection goes back to the pool and would keep the lock.
		_, unlockErr := conn.ExecContext(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(migrationLock))
		err = errors.Join(err, unlockErr)
	}()
	return migrate(ctx, db, postgresDialect())
}
