package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// plane is the data plane of a server with this handler.
func plane(t *testing.T, h http.HandlerFunc) *client.DataPlane {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, key)
	if err != nil {
		t.Fatal(err)
	}
	d, err := c.DataPlaneAt("", id, "sat_1.t")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// returns fails when do goes on for longer than anything here could need.
func returns(t *testing.T, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the upload goes on")
		return nil
	}
}

// A source that has nothing to read, such as a terminal, does not hold the call up when its context ends.
func TestUploadEndsWithItsContextWhileTheSourceWaits(t *testing.T) {
	begun := make(chan struct{})
	d := plane(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 5))
		close(begun)
		_, _ = io.Copy(io.Discard, r.Body) // until the client hangs up
	})
	source, feed := io.Pipe()
	defer feed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.WriteString(feed, "begin")
		<-begun
		cancel()
	}()
	err := returns(t, func() error {
		_, err := d.WriteFile(ctx, "/x", source, -1)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Nor when the server refuses.
func TestUploadEndsWithARefusalWhileTheSourceWaits(t *testing.T) {
	d := plane(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil { // else this server waits for the body
			t.Error(err)
		}
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":{"code":"is_directory","message":"m"}}`)
	})
	source, feed := io.Pipe()
	defer feed.Close()
	err := returns(t, func() error {
		_, err := d.WriteFile(t.Context(), "/x", source, -1)
		return err
	})
	if client.CodeOf(err) != "is_directory" {
		t.Errorf("got %v", err)
	}
}

func TestUploadSizes(t *testing.T) {
	var got string
	d := plane(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		got = string(b)
		_, _ = io.WriteString(w, `{"path":"/x","size":1}`)
	})
	long := strings.Repeat("0123456789", 100<<10)
	for name, up := range map[string]struct {
		content string
		size    int64
		wrong   string
	}{
		"known":    {long, int64(len(long)), ""},
		"unknown":  {long, -1, ""},
		"empty":    {"", 0, ""},
		"not none": {"x", 0, "longer than the size that was given"},
		"shorter":  {"x", 2, "ContentLength=2 with Body length 1"},
	} {
		got = ""
		_, err := d.WriteFile(t.Context(), "/x", struct{ io.Reader }{strings.NewReader(up.content)}, up.size)
		switch {
		case up.wrong == "" && (err != nil || got != up.content):
			t.Errorf("%s: %v, %d bytes arrived", name, err, len(got))
		case up.wrong != "" && (err == nil || !strings.Contains(err.Error(), up.wrong)):
			t.Errorf("%s: got %v", name, err)
		}
	}
}
