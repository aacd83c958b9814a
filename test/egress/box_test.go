package egress

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

//go:embed probe.py
var probeProgram []byte

// box is a sandbox that tries to get out.
type box struct {
	t    testing.TB
	srv  *server
	api  *client.Client
	id   string
	data *client.DataPlane
	addr netip.Addr // see guest
}

// create makes a sandbox with rules, nil for the default ones, and puts the probe into it.
func (s *server) create(t testing.TB, rules *client.Network) *box {
	t.Helper()
	api, err := client.New(s.URL, harness.Key)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := api.CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "egress", Network: rules})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		if err := api.DeleteSandbox(context.Background(), sb.ID); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
	b := &box{t: t, srv: s, api: api, id: sb.ID}
	b.use(sb.AccessToken)
	b.write("/probe.py", probeProgram)
	return b
}

// rules are a policy's two lists.
func rules(allow, deny []string) *client.Network {
	return &client.Network{AllowOut: allow, DenyOut: deny}
}

func (b *box) use(token string) {
	b.t.Helper()
	var err error
	if b.data, err = b.api.DataPlaneAt(b.srv.URL, b.id, token); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) write(path string, content []byte) {
	b.t.Helper()
	if _, err := b.data.WriteFile(b.t.Context(), path, bytes.NewReader(content), int64(len(content))); err != nil {
		b.t.Fatal(err)
	}
}

// sh runs a shell command that must succeed, and gives its output without white space around it.
func (b *box) sh(command string) string {
	b.t.Helper()
	res, err := b.data.Exec(b.t.Context(), client.ExecRequest{Command: command, TimeoutSeconds: 120})
	if err != nil {
		b.t.Fatalf("%s: %v", command, err)
	}
	if res.ExitCode != 0 {
		b.t.Fatalf("%s: exit %d: %s%s", command, res.ExitCode, res.Stdout, res.Stderr)
	}
	return strings.TrimSpace(res.Stdout)
}

// try makes attempts, all at the same time, and says how each ended.
func (b *box) try(attempts ...probe) []string {
	b.t.Helper()
	in, err := json.Marshal(attempts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.write("/attempts.json", in)
	var outcomes []string
	if err := json.Unmarshal([]byte(b.sh("python3 /probe.py < /attempts.json")), &outcomes); err != nil {
		b.t.Fatal(err)
	}
	return outcomes
}

func (b *box) patch(rules *client.Network) {
	b.t.Helper()
	if err := b.api.PatchSandbox(b.t.Context(), b.id, client.PatchSandboxRequest{Network: rules}); err != nil {
		b.t.Fatal(err)
	}
}

// guest is the sandbox's own address; the address before it is the host's end of the link. It stays until a pause.
func (b *box) guest() netip.Addr {
	b.t.Helper()
	if !b.addr.IsValid() {
		b.addr = netip.MustParseAddr(b.sh(`python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("198.51.100.1", 1)); print(s.getsockname()[0])'`))
	}
	return b.addr
}

// logEntry is a row of the network log as the API gives it (wire section 5).
type logEntry struct {
	Kind      string    `json:"kind"`
	TS        time.Time `json:"ts"`
	Host      string    `json:"host"`
	DstIP     string    `json:"dst_ip"`
	DstPort   int       `json:"dst_port"`
	Protocol  string    `json:"protocol"`
	Verdict   string    `json:"verdict"`
	MatchRule string    `json:"match_rule"`
	BytesSent *int64    `json:"bytes_sent"`
	BytesRecv *int64    `json:"bytes_recv"`
	Count     *int64    `json:"count"`
}

// times is how many attempts the row stands for.
func (e logEntry) times() int64 {
	if e.Count == nil {
		return 1
	}
	return *e.Count
}

func (e logEntry) String() string {
	number := func(n *int64) string {
		if n == nil {
			return "?"
		}
		return fmt.Sprint(*n)
	}
	return fmt.Sprintf("%s %s %s %s:%d host %q rule %q, %s out, %s in, %d times",
		e.Kind, e.Protocol, e.Verdict, e.DstIP, e.DstPort, e.Host, e.MatchRule, number(e.BytesSent), number(e.BytesRecv), e.times())
}

// log reads the whole network log of the sandbox, newest first.
func (b *box) log() ([]logEntry, error) {
	var all []logEntry
	query := url.Values{"limit": {"200"}}
	for {
		var page struct {
			Data       []logEntry `json:"data"`
			NextCursor string     `json:"next_cursor"`
			HasMore    bool       `json:"has_more"`
		}
		if err := b.getJSON("/sandboxes/"+b.id+"/network?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		all = append(all, page.Data...)
		if !page.HasMore {
			return all, nil
		}
		query.Set("before", page.NextCursor)
	}
}

func (b *box) getJSON(path string, into any) error {
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, b.srv.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-API-Key", harness.Key)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", path, res.Status, body)
	}
	return json.Unmarshal(body, into)
}
