package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/superserve/superserve/client"
)

func watching(t *testing.T, path string, recursive bool, body string) (*client.FileWatch, *server) {
	t.Helper()
	s, _ := serve(t, answer{status: 200, body: body})
	w, err := dataPlane(t, s).Watch(t.Context(), path, recursive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, s
}

func TestWatch(t *testing.T) {
	const created = `data: {"event":"create","path":"/d/x"}` + "\n\n"
	for name, c := range map[string]struct {
		body string
		want []string
		err  error
	}{
		"path removed":    {": keepalive\n\n" + created + `data: {"event":"remove","path":"/d"}` + "\n\n", []string{"create /d/x", "remove /d"}, nil},
		"path renamed":    {`data: {"event":"rename","path":"/d"}` + "\n\n" + created, []string{"rename /d"}, nil},
		"an entry's end":  {`data: {"event":"remove","path":"/d/x"}` + "\n\n", []string{"remove /d/x"}, client.ErrStreamCut},
		"events lost":     {`data: {"event":"overflow"}` + "\n\n", []string{"overflow "}, client.ErrStreamCut},
		"cut":             {created, []string{"create /d/x"}, client.ErrStreamCut},
		"cut in an event": {created + `data: {"event":"cre`, []string{"create /d/x"}, client.ErrStreamCut},
	} {
		t.Run(name, func(t *testing.T) {
			w, s := watching(t, "/d/", true, c.body)
			if got := s.last(t).URI; got != "/files/watch?path=%2Fd%2F&recursive=true" {
				t.Errorf("asked %s", got)
			}
			var got []string
			var last error
			for e, err := range w.Events() {
				if last = err; err == nil {
					got = append(got, e.Event+" "+e.Path)
				}
			}
			if !slices.Equal(got, c.want) || !errors.Is(last, c.err) {
				t.Errorf("%q, %v", got, last)
			}
		})
	}
	w, s := watching(t, "/d", false, "data: x\n\n")
	if _, err := w.Next(); err == nil || errors.Is(err, io.EOF) || s.last(t).URI != "/files/watch?path=%2Fd" {
		t.Errorf("%v, asked %s", err, s.last(t).URI)
	}
}

func TestWatchEndsWithItsContextOrClose(t *testing.T) {
	for name, end := range map[string]func(*client.FileWatch, context.CancelFunc){
		"cancel": func(_ *client.FileWatch, cancel context.CancelFunc) { cancel() },
		"close":  func(w *client.FileWatch, _ context.CancelFunc) { _ = w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, ": here\n\n")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				close(gone)
			}))
			t.Cleanup(srv.Close)
			leavesNothing(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := dataPlane(t, &server{Server: srv}).Watch(ctx, "/d", false)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = w.Close() })
			end(w, cancel)
			<-gone
			if _, err := w.Next(); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
		})
	}
}
