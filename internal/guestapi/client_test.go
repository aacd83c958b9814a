package guestapi_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

// agent serves h on loopback and returns a client of it.
func agent(t *testing.T, h http.HandlerFunc) *guestapi.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return guestapi.NewClient(netip.MustParseAddrPort(srv.Listener.Addr().String()), "s3cret")
}

func TestCallsShowTheSecretAndReadAnswers(t *testing.T) {
	c := agent(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(guestapi.SecretHeader) != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch r.Method + " " + r.URL.RequestURI() {
		case "GET " + guestapi.HealthPath:
			fmt.Fprint(w, `{"version":"v1","pid":1}`)
		case "POST " + guestapi.InitPath:
			b, _ := io.ReadAll(r.Body)
			if string(b) != `{"secret":"n","hostname":"h"}` {
				t.Errorf("Init sent %s", b)
			}
			w.WriteHeader(http.StatusNoContent)
		case "POST " + guestapi.RelievePath + "?memory_mib=1024":
			fmt.Fprint(w, `{"pid":7,"command":"hog","rss_kib":12}`)
		default:
			t.Errorf("unexpected call %s %s", r.Method, r.URL)
		}
	})
	ctx := t.Context()
	if h, err := c.Health(ctx); err != nil || h.PID != 1 || h.Version != "v1" {
		t.Errorf("Health: %+v, %v", h, err)
	}
	if err := c.Init(ctx, guestapi.Init{Secret: "n", Hostname: "h"}); err != nil {
		t.Errorf("Init: %v", err)
	}
	if r, err := c.Relieve(ctx, 1024); err != nil || r.PID != 7 || r.RSSKiB != 12 {
		t.Errorf("Relieve: %+v, %v", r, err)
	}
}

func TestErrorsOfTheAgent(t *testing.T) {
	c := agent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `{"error":{"code":"unavailable","message":"busy"}}`)
	})
	_, err := c.Health(t.Context())
	status, ok := errors.AsType[*guestapi.StatusError](err)
	if !ok || status.Status != 503 || status.Code != "unavailable" || status.Message != "busy" {
		t.Errorf("got %v", err)
	}
}

// A hostile agent must cost the host neither memory nor time.
func TestHostileAnswersAreBounded(t *testing.T) {
	hostile := map[string]http.HandlerFunc{
		"endless body": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat("x", 4096)); err != nil {
					return
				}
			}
		},
		"silence": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
		"huge header": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
			w.WriteHeader(http.StatusOK)
		},
		"not JSON": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"trickle": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
			}
		},
		"switching protocols and silence": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			}
		},
	}
	for name, h := range hostile {
		t.Run(name, func(t *testing.T) {
			c := agent(t, h)
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			done := make(chan error, 1)
			go func() { _, err := c.Health(ctx); done <- err }()
			select {
			case err := <-done:
				if err == nil {
					t.Error("Health accepted it")
				}
			case <-time.After(5 * time.Second):
				t.Fatal("Health did not return when its context ended")
			}
		})
	}
}

func TestWaitReadyAnswersSoonAfterTheAgentIsUp(t *testing.T) {
	// Reserve a port, so that the first tries are refused.
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c := guestapi.NewClient(netip.MustParseAddrPort(addr), "s")
	ready := make(chan time.Time, 1)
	go func() {
		if err := c.WaitReady(t.Context()); err != nil {
			t.Error(err)
		}
		ready <- time.Now()
	}()
	time.Sleep(100 * time.Millisecond) // the agent takes this long to boot
	if l, err = net.Listen("tcp4", addr); err != nil {
		t.Fatal(err)
	}
	up := time.Now()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })}
	go srv.Serve(l) // ends with Close
	t.Cleanup(func() { _ = srv.Close() })
	delay := (<-ready).Sub(up)
	t.Logf("ready %s after the agent was up", delay)
	if delay > 50*time.Millisecond { // about 1 ms on an idle machine; this one may be busy
		t.Errorf("WaitReady came %s after the agent was up", delay)
	}
}

func TestWaitReadyGivesUp(t *testing.T) {
	wrong := agent(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	start := time.Now()
	if err := wrong.WaitReady(t.Context()); err == nil || time.Since(start) > 5*time.Second {
		t.Errorf("a wrong secret: %v after %s", err, time.Since(start))
	}
	broken := agent(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := broken.WaitReady(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "500") {
		t.Errorf("an agent that never gets ready: %v", err)
	}
}

func TestRoundTripAimsAtTheAgent(t *testing.T) {
	c := agent(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.RequestURI(), " ", r.Header.Get(guestapi.SecretHeader))
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://elsewhere.invalid/files?path=/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(guestapi.SecretHeader, "forged")
	answer, err := c.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil || string(b) != "/files?path=/a s3cret" {
		t.Errorf("got %q, %v", b, err)
	}
	if r.URL.Host != "elsewhere.invalid" || r.Header.Get(guestapi.SecretHeader) != "forged" {
		t.Error("RoundTrip altered the caller's request")
	}
}
