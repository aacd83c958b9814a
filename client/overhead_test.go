package client_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

const transfer = 100 << 20

// echoServer answers an exec at once, swallows uploads and sends 100 MiB, so that what is measured is the client.
func echoServer(tb testing.TB) (*client.DataPlane, string) {
	tb.Helper()
	chunk := make([]byte, 1<<20)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/exec":
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"stdout":"","stderr":"","exit_code":0}`)
		case r.Method == http.MethodPost:
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, `{"path":"/x","size":`+strconv.FormatInt(n, 10)+`}`)
		default:
			w.Header().Set("Content-Length", strconv.Itoa(transfer))
			for range transfer / len(chunk) {
				_, _ = w.Write(chunk)
			}
		}
	}))
	tb.Cleanup(srv.Close)
	c, err := client.New(srv.URL, key)
	if err != nil {
		tb.Fatal(err)
	}
	dp, err := c.DataPlaneAt("", id, "sat_1.x")
	if err != nil {
		tb.Fatal(err)
	}
	return dp, srv.URL
}

// work is the same call by the client and by net/http alone.
type work struct{ client, bare func(context.Context) error }

func works(tb testing.TB) map[string]work {
	dp, origin := echoServer(tb)
	payload := make([]byte, transfer)
	bare := func(method, path string, body []byte) func(context.Context) error {
		return func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, method, origin+path, bytes.NewReader(body))
			if err != nil {
				return err
			}
			req.Header.Set("X-Access-Token", "sat_1.x")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			_, err = io.Copy(io.Discard, res.Body)
			return err
		}
	}
	return map[string]work{
		"exec": {func(ctx context.Context) error {
			return errOf(dp.Exec(ctx, client.ExecRequest{Command: "true"}))
		}, bare("POST", "/exec", []byte(`{"command":"true"}`))},
		"upload": {func(ctx context.Context) error {
			return errOf(dp.WriteFile(ctx, "/x", bytes.NewReader(payload), transfer))
		}, bare("POST", "/files?path=/x", payload)},
		"download": {func(ctx context.Context) error {
			f, err := dp.ReadFile(ctx, "/x")
			if err != nil {
				return err
			}
			defer f.Close()
			return errOf(io.Copy(io.Discard, f))
		}, bare("GET", "/files?path=/x", nil)},
	}
}

// BenchmarkOverhead compares the client with net/http; superserve bench --sdk does so on a real server.
func BenchmarkOverhead(b *testing.B) {
	for name, w := range works(b) {
		for who, do := range map[string]func(context.Context) error{"client": w.client, "bare": w.bare} {
			b.Run(name+"/"+who, func(b *testing.B) {
				if name != "exec" {
					b.SetBytes(transfer)
				}
				for b.Loop() {
					if err := do(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// A command costs at most 1 ms more than with net/http alone.
func TestOverheadOfExec(t *testing.T) {
	w := works(t)["exec"]
	var took [2][]time.Duration
	for range 300 {
		for i, do := range []func(context.Context) error{w.client, w.bare} {
			start := time.Now()
			if err := do(t.Context()); err != nil {
				t.Fatal(err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	if over := took[0][150] - took[1][150]; over > time.Millisecond {
		t.Errorf("%v more than net/http's %v", over, took[1][150])
	}
}
