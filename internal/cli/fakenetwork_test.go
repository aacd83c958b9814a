package cli_test

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// fakeRows is a network log, the oldest first. Rows of 13:00 and later come only to those who have read all others.
func fakeRows() []map[string]any {
	row := func(id int, ts, verdict, protocol string, more map[string]any) map[string]any {
		kind := "connection"
		if protocol == "dns" {
			kind = "request"
		}
		r := map[string]any{"id": id, "kind": kind, "ts": "2026-01-02T" + ts + "Z", "verdict": verdict, "protocol": protocol}
		for k, v := range more {
			r[k] = v
		}
		return r
	}
	return []map[string]any{
		row(1, "12:00:00.000", "allowed", "dns", map[string]any{"host": "a.example.com", "dst_ip": "192.0.32.1", "match_rule": "allow_out *.example.com"}),
		row(2, "12:00:01.000", "allowed", "tls", map[string]any{"host": "a.example.com", "dst_ip": "192.0.32.1", "dst_port": 443,
			"bytes_sent": 0, "bytes_recv": 5 << 30, "match_rule": "allow_out *.example.com"}),
		row(3, "12:00:02.000", "allowed", "http", map[string]any{"host": "b.example.com", "dst_ip": "192.0.32.2", "dst_port": 80, "bytes_sent": 1536, "bytes_recv": 1023}),
		row(4, "12:00:03.000", "failed", "tcp", map[string]any{"host": "c.d.example.com", "dst_ip": "192.0.32.3", "dst_port": 22}),
		row(5, "12:00:04.000", "blocked", "tls", map[string]any{"host": "evil\x1b[31m", "dst_ip": "198.41.0.4", "dst_port": 443, "match_rule": "deny_out 0.0.0.0/0\n"}),
		row(6, "12:00:05.000", "blocked", "tcp", map[string]any{"count": 123456, "dst_port": 25, "match_rule": "deny_out 0.0.0.0/0"}),
		row(7, "12:00:06.000", "allowed", "udp", map[string]any{"dst_ip": "2600::1", "dst_port": 123, "bytes_sent": 48, "bytes_recv": 48}),
		row(8, "12:00:07.000", "allowed", "icmp", map[string]any{"dst_ip": "198.41.0.5"}),
		row(9, "13:00:00.000", "allowed", "icmp", map[string]any{"dst_ip": "198.41.0.6"}),
		row(10, "13:00:01.000", "allowed", "icmp", map[string]any{"dst_ip": "198.41.0.7", "count": 0}),
	}
}

// network answers with a page; who has read the last row is told that the sandbox is gone.
func (f *fakeAPI) network(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	rows := fakeRows()
	slices.Reverse(rows)
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || limit > 200 {
		fail(w, http.StatusBadRequest, "bad_request", "limit must be a number from 1 to 200")
		return
	}
	since, sinceErr := strconv.Atoi(q.Get("since"))
	newest := 8
	if sinceErr == nil && since >= 8 {
		newest = since + 1
	}
	if newest > 10 {
		fail(w, http.StatusNotFound, "not_found", "sandbox not found")
		return
	}
	sinceTime, _ := time.Parse(time.RFC3339, q.Get("since"))
	before, _ := strconv.Atoi(q.Get("before"))
	page := []map[string]any{}
	for _, row := range rows {
		id := row["id"].(int)
		ts, err := time.Parse(time.RFC3339, row["ts"].(string))
		if err != nil {
			panic(err)
		}
		if id > newest || id <= since || before > 0 && id >= before || ts.Before(sinceTime) ||
			q.Get("verdict") != "" && q.Get("verdict") != row["verdict"] {
			continue
		}
		page = append(page, row)
	}
	out := map[string]any{"data": page, "has_more": false}
	if len(page) > limit {
		page = page[:limit]
		out = map[string]any{"data": page, "has_more": true, "next_cursor": strconv.Itoa(page[limit-1]["id"].(int))}
	}
	answer(w, http.StatusOK, out)
}
