package guestapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/guestapi"
)

// TestLongTexts: what a hostile agent says ends up in logs and in the error of a build.
func TestLongTexts(t *testing.T) {
	const enough = 4 << 10
	long := strings.Repeat("é", 25<<10)
	quoted, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	failing := agent(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, `{"error":{"code":"x","message":%s}}`, quoted)
	})
	if _, err := failing.Health(t.Context()); err == nil || len(err.Error()) > enough {
		t.Errorf("Health: an error of %d bytes", len(fmt.Sprint(err)))
	}
	answering := agent(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == guestapi.RelievePath {
			fmt.Fprintf(w, `{"pid":7,"command":%s}`, quoted)
			return
		}
		fmt.Fprintf(w, "data: {\"error\":%s,\"code\":%s,\"finished\":true}\n\n", quoted, quoted)
	})
	if r, err := answering.Relieve(t.Context(), 1); err != nil || len(r.Command) > enough {
		t.Errorf("Relieve: a command of %d bytes, %v", len(r.Command), err)
	}
	_, err = answering.Run(t.Context(), guestapi.ExecRequest{Command: "x"}, func(guestapi.ExecEvent) error { return nil })
	status, ok := errors.AsType[*guestapi.StatusError](err)
	if !ok || status.Message == "" || len(status.Message)+len(status.Code) > enough {
		t.Errorf("Run: an error of %d bytes", len(fmt.Sprint(err)))
	}
}

func TestBoundError(t *testing.T) {
	if guestapi.BoundError(nil) != nil {
		t.Error("nil became an error")
	}
	err := guestapi.BoundError(fmt.Errorf("%s: %w", strings.Repeat("x", 1<<20), io.ErrUnexpectedEOF))
	if len(err.Error()) > 4<<10 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", len(err.Error()), errors.Unwrap(err))
	}
}
