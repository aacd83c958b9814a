package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/image"
)

// writableBase is a root file system on top of the base image's.
func writableBase(t *testing.T) string {
	t.Helper()
	base, dir := mountBase(t), t.TempDir()
	root := filepath.Join(dir, "root")
	// The scratch layer is in memory: not every file system can be one.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := "lowerdir=" + base + ",upperdir=" + filepath.Join(dir, "upper") + ",workdir=" + filepath.Join(dir, "work")
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// A script sees the new system as its root, resolves names as the host does, and leaves nothing running or mounted.
func TestScript(t *testing.T) {
	root := writableBase(t)
	if err := image.RunScript(t, root, "mkdir /opt/it\ncp /etc/resolv.conf /etc/debian_version /opt/it\nsleep 1000 &"); err != nil {
		t.Fatal(err)
	}
	hosts, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "opt/it/resolv.conf")); err != nil || string(got) != string(hosts) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(root, "opt/it/debian_version")); err != nil || !strings.HasPrefix(string(got), "12.") {
		t.Errorf("%q, %v", got, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root+"/") {
		t.Errorf("something is mounted in it: %v\n%s", err, mounts)
	}
}

func TestScriptThatFails(t *testing.T) {
	root := writableBase(t)
	for script, want := range map[string]string{
		"echo first; false; touch /opt/later":                               "first",
		"echo $UNKNOWN; touch /opt/later":                                   "UNKNOWN",
		"echo 'error: SELF_SIGNED_CERT_IN_CHAIN'; exit 3; touch /opt/later": "extra-ca-files",
	} {
		err := image.RunScript(t, root, script)
		failed, ok := errors.AsType[*image.BuildError](err)
		if !ok || !strings.Contains(failed.Error()+failed.Public(), want) {
			t.Errorf("%s: %v", script, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "opt/later")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the script went on: %v", err)
	}
}
