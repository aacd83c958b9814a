package gvisor

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/runtime"
)

// script makes an executable that stands in for runsc.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runsc")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNoRoomIsTold(t *testing.T) {
	log := filepath.Join(t.TempDir(), "runsc.log")
	line := `{"msg":"failed to save pages: write: no space left on device","level":"error"}`
	c := command{path: script(t, "echo '"+line+"' >> "+log+"; exit 128"), log: log}
	if err := c.run(t.Context(), time.Minute, "checkpoint", "x"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC in its chain", err)
	}
	c.path = script(t, "exit 128")
	if err := c.run(t.Context(), time.Minute, "checkpoint", "x"); err == nil || errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v; that complaint was an earlier call's", err)
	}
}

// TestAttachToADamagedRecord is what a crash of the machine may leave.
func TestAttachToADamagedRecord(t *testing.T) {
	guest := t.TempDir()
	if err := os.WriteFile(filepath.Join(guest, "boxd"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{
		Runsc: script(t, "exit 0"), GuestDir: guest, SharedDir: t.TempDir(), Version: "x", CgroupParent: "superserve-gvdamaged",
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, left := range map[string]string{"empty": "", "half": `{"id": "on`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "instance.json"), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Attach(t.Context(), "one", dir); !errors.Is(err, runtime.ErrGone) {
			t.Errorf("%s: Attach: %v, want ErrGone", name, err)
		}
	}
}
