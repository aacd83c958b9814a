package cli_test

import (
	"bytes"
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/cli"
)

// silent is standard input at which nobody types; asked is closed when it is read.
type silent struct {
	asked chan struct{}
	once  sync.Once
}

func (s *silent) Read([]byte) (int, error) {
	s.once.Do(func() { close(s.asked) })
	select {}
}

// An interrupt ends a copy whose source has nothing to read: standard input, or a named pipe that nobody writes to.
func TestInterruptedCopyOfASourceThatWaits(t *testing.T) {
	api := newFakeAPI()
	defer api.Close()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"-", fifo} {
		ctx, cancel := context.WithCancel(t.Context())
		in := &silent{asked: make(chan struct{})}
		if source == "-" {
			go func() { <-in.asked; cancel() }()
		} else {
			cancel()
		}
		var out, errs bytes.Buffer
		app := &cli.App{In: in, Out: &out, Err: &errs,
			Environ: []string{"SUPERSERVE_BASE_URL=" + api.URL, "SUPERSERVE_API_KEY=" + fakeKey}}
		code := make(chan int, 1)
		go func() { code <- cli.Main(ctx, app, []string{"sandbox", "cp", source, fakeID + ":/x"}) }()
		select {
		case got := <-code:
			if got != 130 || errs.String() != "superserve: interrupted\n" {
				t.Errorf("%s: code %d, %q", source, got, errs.String())
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("the copy of %s goes on", source)
		}
		cancel()
	}
}
