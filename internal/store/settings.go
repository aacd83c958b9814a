package store

import (
	"context"
	"database/sql"
	"errors"
)

// Setting reads a server-wide secret or marker, storing initial when there is none yet; concurrent callers agree.
func (s *Store) Setting(ctx context.Context, name string, initial []byte) ([]byte, error) {
	if initial == nil {
		initial = []byte{} // nil would be NULL
	}
	var value []byte
	err := s.inWrite(ctx, "reading the setting "+name, func(tx *sql.Tx) error {
		_, err := exec(ctx, tx, `INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, initial)
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

// StoredSetting reads a setting without storing anything; ok is false when there is none.
func (s *Store) StoredSetting(ctx context.Context, name string) (value []byte, ok bool, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, wrap(err, "reading the setting "+name)
	}
	return value, true, nil
}
