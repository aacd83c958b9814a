package image_test

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/image"
)

// The parts of a build that run programs of the image are tried on a copy of the base image.
func copyBase(t *testing.T) string {
	t.Helper()
	root, dir := mountBase(t), filepath.Join(t.TempDir(), "rootfs")
	if out, err := exec.Command("cp", "-a", root, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

func TestExtraCAsReachTheTrustStore(t *testing.T) {
	dir := copyBase(t)
	bundle := filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt")
	before, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	// One that the trust store has already, and one of the operator's own.
	known, _ := pem.Decode(before)
	file := filepath.Join(t.TempDir(), "ca.pem")
	ours := image.NewTestCA(t, "operator")
	if err := os.WriteFile(file, append(pem.EncodeToMemory(known), ours...), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again with the same: nothing changes
		if err := image.AddCAFiles(t, dir, file); err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(after), "BEGIN CERT") - strings.Count(string(before), "BEGIN CERT"); got != 1 {
		t.Errorf("the bundle grew by %d certificates, want 1", got)
	}
	if !strings.Contains(string(after), string(ours)) {
		t.Error("the operator's certificate is not in the bundle")
	}
	if added, _ := filepath.Glob(filepath.Join(dir, "usr/local/share/ca-certificates/superserve-*.crt")); len(added) != 1 {
		t.Errorf("files added: %v, want one", added)
	}
	if got := inside(t, dir, "openssl verify -CApath /etc/ssl/certs /usr/local/share/ca-certificates/superserve-*.crt"); !strings.HasSuffix(got, ": OK") {
		t.Errorf("openssl does not trust it: %s", got)
	}
}

func TestTemplateWithAnotherUser(t *testing.T) {
	dir := copyBase(t)
	if err := image.MakeUser(t, dir, "dev", "/home/dev"); err != nil {
		t.Fatal(err)
	}
	if got := inside(t, dir, "id -un dev; stat -c '%U:%G %a' /home/dev; getent passwd dev | cut -d: -f6,7"); got != "dev\ndev:dev 755\n/home/dev:/bin/bash" {
		t.Errorf("got %q", got)
	}
}

func TestFixFilesStaysInside(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	victim := filepath.Join(outside, "resolv.conf")
	if err := os.WriteFile(victim, []byte("host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := image.FixFiles(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "host's" {
		t.Errorf("the host's file now holds %q", got)
	}
	if info, err := os.Lstat(filepath.Join(dir, "etc/resolv.conf")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("resolv.conf: %v, %v", info, err)
	}

	linked := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(linked, "tmp")); err != nil {
		t.Fatal(err)
	}
	if err := image.FixFiles(linked); err == nil {
		t.Error("a /tmp that leads out of the tree is accepted")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Errorf("a link led the clean-up out of the tree: %v", err)
	}
}
