package client

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// retryRig answers with statuses in turn (0 hangs up), the last one for good, and notes the waits.
type retryRig struct {
	client *Client
	calls  atomic.Int32
	waits  []time.Duration
}

func newRetryRig(t *testing.T, retryAfter string, statuses ...int) *retryRig {
	t.Helper()
	r := &retryRig{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		status := statuses[min(int(r.calls.Add(1)), len(statuses))-1]
		if status == 0 {
			panic(http.ErrAbortHandler)
		}
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(srv.Close)
	c, err := New(srv.URL, "key")
	if err != nil {
		t.Fatal(err)
	}
	c.sleep = func(ctx context.Context, d time.Duration) error {
		r.waits = append(r.waits, d)
		return ctx.Err()
	}
	r.client = c
	return r
}

func TestRetries(t *testing.T) {
	get := func(c *Client) error { _, err := c.GetSandbox(t.Context(), "x"); return err }
	del := func(c *Client) error { return c.DeleteSandbox(t.Context(), "x") }
	pause := func(c *Client) error { return c.PauseSandbox(t.Context(), "x") }
	patch := func(c *Client) error { return c.PatchSandbox(t.Context(), "x", PatchSandboxRequest{}) }
	for name, c := range map[string]struct {
		do       func(*Client) error
		statuses []int
		calls    int32
		status   int // of the error; 0 none, -1 a network error
	}{
		"success":            {get, []int{200}, 1, 0},
		"503 then success":   {get, []int{503, 200}, 2, 0},
		"429, 502":           {get, []int{429, 502, 200}, 3, 0},
		"504 three times":    {get, []int{504}, 3, 504},
		"network then fine":  {get, []int{0, 0, 200}, 3, 0},
		"network only":       {get, []int{0}, 3, -1},
		"500 is final":       {get, []int{500, 200}, 1, 500},
		"404 is final":       {get, []int{404, 200}, 1, 404},
		"delete":             {del, []int{503, 204}, 2, 0},
		"delete, then gone":  {del, []int{0, 404}, 2, 0},
		"delete of nothing":  {del, []int{404}, 1, 404},
		"post never":         {pause, []int{503, 204}, 1, 503},
		"post never, broken": {pause, []int{0, 204}, 1, -1},
		"patch never":        {patch, []int{429, 204}, 1, 429},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetryRig(t, "", c.statuses...)
			err := c.do(r.client)
			if got := r.calls.Load(); got != c.calls {
				t.Errorf("%d calls, want %d", got, c.calls)
			}
			if (err == nil) != (c.status == 0) || c.status > 0 && StatusOf(err) != c.status || c.status == -1 && StatusOf(err) != 0 {
				t.Errorf("error %v, want status %d", err, c.status)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	get := func(r *retryRig) { _, _ = r.client.GetSandbox(t.Context(), "x") }
	for range 20 {
		r := newRetryRig(t, "", 503)
		get(r)
		if len(r.waits) != 2 || r.waits[0] < firstWait/2 || r.waits[0] > firstWait || r.waits[1] < firstWait || r.waits[1] > 2*firstWait {
			t.Errorf("waited %v", r.waits)
		}
	}
	r := newRetryRig(t, "7", 429)
	get(r)
	if len(r.waits) != 2 || r.waits[0] != 7*time.Second {
		t.Errorf("Retry-After 7: waited %v", r.waits)
	}
	r = newRetryRig(t, "3600", 429)
	if get(r); r.calls.Load() != 1 {
		t.Error("an hour's Retry-After is the caller's to decide about")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r = newRetryRig(t, "7", 429)
	if _, err := r.client.GetSandbox(ctx, "x"); StatusOf(err) != 429 || r.calls.Load() != 1 {
		t.Errorf("a wait past the deadline: %v after %d calls", err, r.calls.Load())
	}
	for _, v := range []string{"", "x", "-1", "99999999999999999999", "Fri, 31 Dec 1999 23:59:59 GMT"} {
		if retryAfter(v) != 0 {
			t.Errorf("Retry-After %q is %v", v, retryAfter(v))
		}
	}
}
