package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strings"
)

// entryHash stands for one key with its value in the index that the metadata filter uses. A hash, because JSON
// functions differ between the databases and can't use a plain index, and because the pair itself (up to 2304 bytes of
// any characters, NUL included) fits neither PostgreSQL's TEXT nor comfortably its index rows.
func entryHash(key, value string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(key))) // the length tells ("a","bc") from ("ab","c")
	b = append(append(b, key...), value...)
	sum := sha256.Sum256(b)
	return sum[:]
}

// indexMetadata makes the sandbox's index rows those of metadata. Most updates leave the metadata alone, and then it
// only reads.
func indexMetadata(ctx context.Context, tx *sql.Tx, sandboxID string, metadata map[string]string) error {
	missing := make(map[string]bool, len(metadata))
	for k, v := range metadata {
		missing[string(entryHash(k, v))] = true
	}
	have, err := all(ctx, tx, "metadata entry", scanBytes, `SELECT entry FROM sandbox_metadata WHERE sandbox_id = $1`, sandboxID)
	if err != nil {
		return err
	}
	for _, entry := range have {
		if missing[string(*entry)] {
			delete(missing, string(*entry))
			continue
		}
		if _, err := exec(ctx, tx, `DELETE FROM sandbox_metadata WHERE sandbox_id = $1 AND entry = $2`, sandboxID, *entry); err != nil {
			return fmt.Errorf("indexing metadata: %w", err)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	args := []any{sandboxID}
	rows := make([]string, 0, len(missing))
	for entry := range missing {
		args = append(args, []byte(entry))
		rows = append(rows, fmt.Sprintf("($1, $%d)", len(args)))
	}
	if _, err := exec(ctx, tx, `INSERT INTO sandbox_metadata (sandbox_id, entry) VALUES `+strings.Join(rows, ", "), args...); err != nil {
		return fmt.Errorf("indexing metadata: %w", err)
	}
	return nil
}

func scanBytes(row scanner) (*[]byte, error) {
	var b []byte
	err := row.Scan(&b)
	return &b, err
}
