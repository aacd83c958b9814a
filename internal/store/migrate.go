package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrate applies what is missing. The caller holds the lock that keeps other processes from doing the same.
func migrate(ctx context.Context, db *sql.DB, d dialect) error {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("reading the embedded migrations: %w", err)
	}
	provider, err := goose.NewProvider(d.goose, db, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("reading the embedded migrations: %w", err)
	}
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the database's schema version: %w%s", err, damageHint(err))
	}
	// Goose ignores versions it has no file for; an older binary would then write rows a newer one can't read.
	if current > known {
		return fmt.Errorf("the database has schema version %d, this superserve knows only up to %d: it was used by a newer superserve; run that one, or restore a backup made before the upgrade", current, known)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the database from schema version %d to %d: %w", current, known, err)
	}
	return nil
}
