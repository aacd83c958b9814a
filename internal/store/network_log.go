package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// Limits of what a row keeps: code in a sandbox has a say in both.
const (
	maxLogHost = 255
	maxLogRule = 512
)

const networkLogColumns = `number, entry_id, sandbox_id, began_at, kind, protocol, verdict, host, dst_ip, dst_port, match_rule, bytes_sent, bytes_recv, attempts`

// networkLogChunk is how many rows one INSERT has. SQLite's driver searches all arguments for each one, so that longer
// ones take much longer: 200 rows 12 ms by eight, and 190 ms by a hundred.
const networkLogChunk = 8

// PutNetworkLog implements netlog.Store. It leaves the reserve alone: on a full disk the log can wait, other writes
// can't.
func (s *Store) PutNetworkLog(ctx context.Context, entries []sandbox.NetworkLogEntry) error {
	options := &sql.TxOptions{Isolation: sql.LevelReadCommitted}
	return wrap(retry(ctx, func() error {
		return runTx(ctx, s.write, options, func(tx *sql.Tx) error { return s.putNetworkLog(ctx, tx, entries) })
	}), "writing the network log")
}

func (s *Store) putNetworkLog(ctx context.Context, tx *sql.Tx, entries []sandbox.NetworkLogEntry) error {
	exists, err := s.holdSandboxes(ctx, tx, entries)
	if err != nil {
		return err
	}
	args := make([]any, 0, networkLogChunk*14)
	for _, e := range entries {
		if !exists[e.SandboxID] {
			continue
		}
		if args, err = s.appendNetworkLog(args, &e); err != nil {
			return err
		}
		if len(args) == networkLogChunk*14 {
			if err := insertNetworkLog(ctx, tx, args); err != nil {
				return err
			}
			args = args[:0]
		}
	}
	return insertNetworkLog(ctx, tx, args)
}

// holdSandboxes says which of the rows' sandboxes exist; they can't be deleted before tx is over.
func (s *Store) holdSandboxes(ctx context.Context, tx *sql.Tx, entries []sandbox.NetworkLogEntry) (map[string]bool, error) {
	exists, in, args := map[string]bool{}, []string{}, []any{}
	for _, e := range entries {
		if _, seen := exists[e.SandboxID]; !seen && sandbox.ValidID(e.SandboxID) {
			exists[e.SandboxID] = false
			args = append(args, e.SandboxID)
			in = append(in, fmt.Sprintf("$%d", len(args)))
		}
	}
	if len(args) == 0 {
		return exists, nil
	}
	found, err := texts(ctx, tx, "sandbox id", `SELECT id FROM sandboxes WHERE id IN (`+strings.Join(in, ", ")+`) ORDER BY id`+s.dialect.holdRow, args...)
	for _, id := range found {
		exists[id] = true
	}
	return exists, err
}

func (s *Store) appendNetworkLog(args []any, e *sandbox.NetworkLogEntry) ([]any, error) {
	id, err := hex.DecodeString(strings.ReplaceAll(e.ID, "-", ""))
	if err != nil || len(id) != 16 {
		return nil, fmt.Errorf("the id %.50q of a row is no UUID", e.ID)
	}
	ip := ""
	if e.DstIP.IsValid() {
		ip = e.DstIP.String()
	}
	return append(args, s.nextNumber(), id, e.SandboxID, micros(e.Time), string(e.Kind), string(e.Protocol), string(e.Verdict),
		logText(e.Host, maxLogHost), ip, int64(e.DstPort), logText(e.MatchRule, maxLogRule), e.BytesSent, e.BytesRecv, e.Count), nil
}

// logText cuts what a sandbox may have made up.
func logText(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return freeText(s)
}

// nextNumber is higher than every one before. It goes by the clock, so that it also is after a restart.
func (s *Store) nextNumber() int64 {
	for {
		last := s.lastNumber.Load()
		next := max(last+1, time.Now().UnixMicro())
		if s.lastNumber.CompareAndSwap(last, next) {
			return next
		}
	}
}

func insertNetworkLog(ctx context.Context, tx *sql.Tx, args []any) error {
	if len(args) == 0 {
		return nil
	}
	var q strings.Builder
	q.WriteString(`INSERT INTO network_log (` + networkLogColumns + `) VALUES `)
	for i := range args {
		switch {
		case i == 0:
			q.WriteString("(")
		case i%14 == 0:
			q.WriteString("), (")
		default:
			q.WriteString(", ")
		}
		fmt.Fprintf(&q, "$%d", i+1)
	}
	// A row keeps its number and with it its place.
	q.WriteString(`) ON CONFLICT (entry_id) DO UPDATE SET protocol = excluded.protocol, verdict = excluded.verdict,
		host = excluded.host, dst_ip = excluded.dst_ip, dst_port = excluded.dst_port, match_rule = excluded.match_rule,
		bytes_sent = excluded.bytes_sent, bytes_recv = excluded.bytes_recv, attempts = excluded.attempts
		WHERE network_log.sandbox_id = excluded.sandbox_id`)
	_, err := exec(ctx, tx, q.String(), args...)
	return err
}

// NetworkLog reads a page of a sandbox's log, the latest to begin first, and whether there is more.
func (s *Store) NetworkLog(ctx context.Context, f control.NetworkLogFilter) (rows []*control.NetworkLogRow, more bool, err error) {
	err = s.inRead(ctx, "reading the network log", func(tx *sql.Tx) error {
		where, args, none, err := networkLogCondition(ctx, tx, f)
		if err != nil || none {
			rows = []*control.NetworkLogRow{}
			return err
		}
		query := fmt.Sprintf(`SELECT %s FROM network_log WHERE %s ORDER BY began_at DESC, number DESC LIMIT $%d`,
			networkLogColumns, where, len(args)+1)
		rows, err = all(ctx, tx, "row of the network log", scanNetworkLog, query, append(args, f.Limit+1)...)
		return err
	})
	if len(rows) > f.Limit {
		rows, more = rows[:f.Limit], true
	}
	return rows, more, err
}

// networkLogCondition builds the WHERE. none says that nothing can match.
func networkLogCondition(ctx context.Context, tx *sql.Tx, f control.NetworkLogFilter) (where string, args []any, none bool, err error) {
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	where = `sandbox_id = ` + arg(f.SandboxID)
	if f.Verdict != "" {
		where += ` AND verdict = ` + arg(string(f.Verdict))
	}
	if f.Since.Number != 0 {
		where += ` AND number > ` + arg(f.Since.Number)
	} else if !f.Since.Time.IsZero() {
		where += ` AND began_at >= ` + arg(micros(f.Since.Time))
	}
	if !f.Before.Time.IsZero() {
		where += ` AND began_at < ` + arg(micros(f.Before.Time))
	}
	if f.Before.Number != 0 {
		var began int64
		err := tx.QueryRowContext(ctx, `SELECT began_at FROM network_log WHERE sandbox_id = $1 AND number = $2`,
			f.SandboxID, f.Before.Number).Scan(&began)
		if errors.Is(err, sql.ErrNoRows) {
			return "", nil, true, nil // it was among the oldest and is gone, and with it all before it
		}
		if err != nil {
			return "", nil, false, err
		}
		at, number := arg(began), arg(f.Before.Number)
		where += ` AND (began_at < ` + at + ` OR began_at = ` + at + ` AND number < ` + number + `)`
	}
	return where, args, false, nil
}

func scanNetworkLog(row scanner) (*control.NetworkLogRow, error) {
	var r control.NetworkLogRow
	var id []byte
	var began, port int64
	var ip string
	err := row.Scan(&r.Number, &id, &r.SandboxID, &began, &r.Kind, &r.Protocol, &r.Verdict, &r.Host, &ip, &port, &r.MatchRule,
		&r.BytesSent, &r.BytesRecv, &r.Count)
	if err != nil {
		return nil, err
	}
	if ip != "" {
		if r.DstIP, err = netip.ParseAddr(ip); err != nil {
			return nil, errors.New("column dst_ip holds no address")
		}
	}
	h := hex.EncodeToString(id)
	if len(h) != 32 {
		return nil, errors.New("column entry_id holds no UUID")
	}
	r.ID = h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	r.Time, r.DstPort = fromMicros(began), uint16(port)
	return &r, nil
}

// TrimNetworkLog implements netlog.Store.
func (s *Store) TrimNetworkLog(ctx context.Context, sandboxID string, before time.Time, keep, limit int) (removed int, err error) {
	// What is too old and what is too much are both the first rows in the same order, so the larger number decides.
	var total, old int
	err = s.read.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN began_at < $1 THEN 1 ELSE 0 END), 0)
		FROM network_log WHERE sandbox_id = $2`, micros(before), sandboxID).Scan(&total, &old)
	if err != nil {
		return 0, wrap(err, "counting old rows of the network log")
	}
	remove := min(max(old, total-keep), limit)
	if remove <= 0 {
		return 0, nil
	}
	err = s.inWrite(ctx, "removing old rows of the network log", func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, `DELETE FROM network_log WHERE entry_id IN
			(SELECT entry_id FROM network_log WHERE sandbox_id = $1 ORDER BY began_at, number LIMIT $2)`, sandboxID, remove)
		removed = int(n)
		return err
	})
	return removed, err
}

// NextNetworkLog implements netlog.Store.
func (s *Store) NextNetworkLog(ctx context.Context, afterSandboxID string) (string, error) {
	var next *string
	err := s.read.QueryRowContext(ctx, `SELECT min(sandbox_id) FROM network_log WHERE sandbox_id > $1`, afterSandboxID).Scan(&next)
	return fromNullText(next), wrap(err, "looking for network logs")
}
