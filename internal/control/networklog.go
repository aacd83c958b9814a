package control

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// NetworkLog writes what sandboxes reached, or tried to; *netlog.Log is one.
type NetworkLog interface {
	// Flush returns when everything that happened in a sandbox before is in the store; unavailable when it can't be
	// written now, not_supported when no log is kept.
	Flush(ctx context.Context, sandboxID string) error
}

type writtenElsewhere struct{}

func (writtenElsewhere) Flush(context.Context, string) error { return nil }

// NetworkLogRow is a row as it is stored. Number rises with every row that is stored and tells rows of a sandbox apart.
type NetworkLogRow struct {
	Number int64
	sandbox.NetworkLogEntry
}

// NetworkLogFilter selects a page of a sandbox's network log.
type NetworkLogFilter struct {
	SandboxID string
	Verdict   sandbox.NetworkVerdict // "" for all
	// Before selects rows that began before a time, or that stand behind a row in the log's order.
	Before NetworkLogPoint
	// Since selects rows that began at or after a time, or that were stored later than a row.
	Since NetworkLogPoint
	Limit int
}

// NetworkLogPoint is a time, or the Number of a row, or neither.
type NetworkLogPoint struct {
	Time   time.Time
	Number int64
}

// NetworkLogRequest is a GET /sandboxes/{id}/network; nothing in it has been checked yet.
type NetworkLogRequest struct {
	Limit int // 1-200; 0: DefaultNetworkLogLimit
	// Before and Since are RFC 3339 times or a row's Number, "" for none.
	Before, Since string
	Verdict       string // "" for all
}

// NetworkLogPage is a part of a log, newest first. Next is what Before has to be to go on, "" when there is no more.
type NetworkLogPage struct {
	Rows []*NetworkLogRow
	Next string
}

// The limit of a page of the network log.
const (
	DefaultNetworkLogLimit = 50
	MaxNetworkLogLimit     = 200
	// flushWait is how long a reader waits for rows that are on their way.
	flushWait = 5 * time.Second
)

// NetworkLog reads a page of a sandbox's network log, whatever state the sandbox is in.
func (s *Service) NetworkLog(ctx context.Context, p Principal, id string, req NetworkLogRequest) (*NetworkLogPage, error) {
	if err := s.admit(ctx); err != nil {
		return nil, err
	}
	sb, err := s.owned(ctx, p, id)
	if err != nil {
		return nil, err
	}
	filter, err := networkLogFilter(sb.ID, req)
	if err != nil {
		return nil, err
	}
	flushCtx, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if err := s.cfg.NetworkLog.Flush(flushCtx, sb.ID); err != nil {
		return nil, err
	}
	rows, more, err := s.store.NetworkLog(ctx, filter)
	if err != nil {
		return nil, storeError("reading the network log", err)
	}
	page := &NetworkLogPage{Rows: rows}
	if more {
		page.Next = strconv.FormatInt(rows[len(rows)-1].Number, 10)
	}
	return page, nil
}

func networkLogFilter(sandboxID string, req NetworkLogRequest) (f NetworkLogFilter, err error) {
	f = NetworkLogFilter{SandboxID: sandboxID, Verdict: sandbox.NetworkVerdict(req.Verdict), Limit: req.Limit}
	if f.Limit == 0 {
		f.Limit = DefaultNetworkLogLimit
	}
	if f.Limit < 1 || f.Limit > MaxNetworkLogLimit {
		return f, sandbox.Errorf(sandbox.CodeBadRequest, "limit must be 1 to %d; got %d", MaxNetworkLogLimit, req.Limit)
	}
	verdicts := []sandbox.NetworkVerdict{"", sandbox.VerdictAllowed, sandbox.VerdictBlocked, sandbox.VerdictFailed}
	if !slices.Contains(verdicts, f.Verdict) {
		return f, sandbox.Errorf(sandbox.CodeBadRequest, "verdict must be allowed, blocked or failed; got %.50q", req.Verdict)
	}
	if f.Before, err = networkLogPoint("before", req.Before); err != nil {
		return f, err
	}
	f.Since, err = networkLogPoint("since", req.Since)
	return f, err
}

func networkLogPoint(field, text string) (NetworkLogPoint, error) {
	if text == "" {
		return NetworkLogPoint{}, nil
	}
	if number, err := strconv.ParseInt(text, 10, 64); err == nil && number > 0 {
		return NetworkLogPoint{Number: number}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Year() < 1970 || at.Year() > 9999 {
		return NetworkLogPoint{}, sandbox.Errorf(sandbox.CodeBadRequest,
			"%s must be a time such as 2026-01-02T15:04:05Z or a page's next_cursor; got %.50q", field, text)
	}
	return NetworkLogPoint{Time: at}, nil
}
