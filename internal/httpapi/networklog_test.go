package httpapi_test

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

const networkPath = "/sandboxes/" + sandboxID + "/network"

func TestNetworkLogShape(t *testing.T) {
	r := newRig(t)
	zero, many := int64(0), int64(1<<40)
	r.service.log = &control.NetworkLogPage{Next: "17", Rows: []*control.NetworkLogRow{
		{Number: 18, NetworkLogEntry: sandbox.NetworkLogEntry{
			ID: templateID, SandboxID: sandboxID, Kind: sandbox.LogConnection, Time: created, Host: "api.example.com",
			DstIP: netip.MustParseAddr("192.0.2.1"), DstPort: 443, Protocol: sandbox.ProtocolTLS, Verdict: sandbox.VerdictAllowed,
			MatchRule: "allow_out api.example.com", BytesSent: &zero, BytesRecv: &many, Count: 1}},
		{Number: 17, NetworkLogEntry: sandbox.NetworkLogEntry{
			ID: snapshotID, SandboxID: sandboxID, Kind: sandbox.LogRequest, Time: created, Protocol: sandbox.ProtocolDNS,
			Verdict: sandbox.VerdictBlocked, Count: 0}},
	}}
	want := `{"data":[{"bytes_recv":1099511627776,"bytes_sent":0,"dst_ip":"192.0.2.1","dst_port":443,"host":"api.example.com",` +
		`"id":18,"kind":"connection","match_rule":"allow_out api.example.com","protocol":"tls","ts":"2026-01-02T14:04:05.123Z","verdict":"allowed"},` +
		`{"count":0,"id":17,"kind":"request","protocol":"dns","ts":"2026-01-02T14:04:05.123Z","verdict":"blocked"}],` +
		`"has_more":true,"next_cursor":"17"}` + "\n"
	if _, body := r.do(r.request("GET", networkPath, "")); body != want {
		t.Errorf("got %s, want %s", body, want)
	}
	r.service.log = &control.NetworkLogPage{}
	if _, body := r.do(r.request("GET", networkPath, "")); body != "{\"data\":[],\"has_more\":false}\n" {
		t.Errorf("an empty log: %s", body)
	}
}

func TestNetworkLogQuery(t *testing.T) {
	r := newRig(t)
	for query, want := range map[string]control.NetworkLogRequest{
		"":                              {},
		"limit=1":                       {Limit: 1},
		"limit=200&verdict=blocked":     {Limit: 200, Verdict: "blocked"},
		"before=17&since=2026-01-02":    {Before: "17", Since: "2026-01-02"},
		"since=" + url.QueryEscape("+"): {Since: "+"},
		"unknown=1":                     {},
	} {
		r.want(r.request("GET", networkPath+"?"+query, ""), 200, "", "")
		if r.service.logged != want {
			t.Errorf("%q was understood as %+v", query, r.service.logged)
		}
	}
	for query, text := range map[string]string{
		"limit=0": "limit", "limit=201": "limit", "limit=-1": "limit", "limit=x": "limit must be a number from 1 to 200", "limit=": "limit",
		"limit=1&limit=2": "limit", "before=": "before", "since=": "since", "verdict=": "verdict", "before=1&before=2": "before",
	} {
		r.want(r.request("GET", networkPath+"?"+query, ""), 400, sandbox.CodeBadRequest, text)
	}
	r.want(r.request("POST", networkPath, ""), 405, sandbox.CodeBadRequest, "GET")
	r.service.failWith(sandbox.ErrNotFound("sandbox"))
	r.want(r.request("GET", networkPath, ""), 404, sandbox.CodeNotFound, "sandbox")
	r.service.failWith(sandbox.Errorf(sandbox.CodeNotSupported, "no log"))
	r.want(r.request("GET", networkPath, ""), 400, sandbox.CodeNotSupported, "no log")
	r.service.failWith(&sandbox.Error{Code: sandbox.CodeUnavailable, Message: "later", RetryAfterSeconds: 5})
	if res := r.want(r.request("GET", networkPath, ""), 503, sandbox.CodeUnavailable, "later"); res.Header.Get("Retry-After") != "5" {
		t.Error("no Retry-After")
	}
}
