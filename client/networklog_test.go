package client_test

import (
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

func TestNetworkLog(t *testing.T) {
	s, c := serve(t, answer{status: 200, body: `{"data":[
		{"kind":"connection","id":1795318685587054,"ts":"2026-01-02T15:04:05.123Z","protocol":"tls","verdict":"allowed","dst_ip":"192.0.2.1",
		 "dst_port":443,"host":"a.example","match_rule":"allow_out a.example","bytes_sent":0},
		{"kind":"request","id":7,"ts":"2026-01-02T15:04:05.000Z","protocol":"dns","verdict":"blocked","count":0}],
		"next_cursor":"7","has_more":true}`})
	page, err := c.NetworkLog(t.Context(), id, client.NetworkLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.last(t); got.Method != "GET" || got.URI != "/sandboxes/"+id+"/network" || got.Header.Get("X-Api-Key") != key {
		t.Errorf("asked %+v", got)
	}
	first, second := page.Data[0], page.Data[1]
	if first.ID != 1795318685587054 || !first.TS.Equal(time.Date(2026, 1, 2, 15, 4, 5, 123e6, time.UTC)) || *first.BytesSent != 0 ||
		first.BytesRecv != nil || first.Count != nil || first.Verdict != client.VerdictAllowed || first.DstPort != 443 {
		t.Errorf("%+v", first)
	}
	if second.Count == nil || *second.Count != 0 || second.Verdict != client.VerdictBlocked || !page.HasMore || page.NextCursor != "7" {
		t.Errorf("%+v in %+v", second, page)
	}
	_, err = c.NetworkLog(t.Context(), id, client.NetworkLogOptions{
		Limit: 200, Before: "7", Since: "2026-01-02T15:04:05+00:00", Verdict: client.VerdictFailed})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.last(t).URI, "/sandboxes/"+id+"/network?before=7&limit=200&since=2026-01-02T15%3A04%3A05%2B00%3A00&verdict=failed"; got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	s, c = serve(t, answer{status: 404, body: `{"error":{"code":"not_found","message":"sandbox not found"}}`})
	if _, err := c.NetworkLog(t.Context(), id, client.NetworkLogOptions{}); !client.IsNotFound(err) || len(s.calls()) != 1 {
		t.Errorf("%v after %d calls", err, len(s.calls()))
	}
}
