package image_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/image/imagetest"
	"github.com/superserve/superserve/templates"
)

// mountBase opens a store that has the base image, and mounts it.
func mountBase(t *testing.T) (root string) {
	t.Helper()
	dir := t.TempDir()
	base := imagetest.Definition(t, templates.Files())
	im := imagetest.Seed(t, dir, base, image.Options{})
	s, err := image.Open(dir, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Unmount(context.Background(), im.ID); err != nil {
			t.Error(err)
		}
	})
	// A store that has it does not build it again.
	reused, err := s.Bootstrap(t.Context(), base, func(p image.Progress) { t.Errorf("built again: %+v", p) })
	if err != nil || reused.ID != im.ID {
		t.Fatalf("%+v, %v", reused, err)
	}
	if root, err = s.Mount(t.Context(), im.ID); err != nil {
		t.Fatal(err)
	}
	return root
}

// inside runs a shell command in the image and returns what it prints.
func inside(t *testing.T, root, command string) string {
	t.Helper()
	cmd := exec.Command("chroot", root, "/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBaseImage(t *testing.T) {
	root := mountBase(t)
	for _, program := range []string{
		"apt-get", "bash", "curl", "find", "git", "ip", "less", "ping", "ps", "python3", "ssh", "tar", "unzip", "vi", "xz",
	} {
		inside(t, root, "command -v "+program)
	}
	if got := inside(t, root, "python3 -c 'import json, ssl, sqlite3; print(1 + 1)'"); got != "2" {
		t.Errorf("python3 printed %q", got)
	}
	if got := inside(t, root, ". /etc/os-release; echo $VERSION_CODENAME"); got != "bookworm" {
		t.Errorf("the suite is %q", got)
	}
	if got := inside(t, root, "apt-config dump Acquire::Languages"); !strings.Contains(got, `"none"`) {
		t.Errorf("apt does not see our settings: %q", got)
	}
	if got := inside(t, root, "/usr/sbin/policy-rc.d; echo $?"); got != "101" {
		t.Errorf("policy-rc.d: %q", got)
	}
	inside(t, root, "dpkg --audit")

	for name, want := range map[string]string{
		"etc/resolv.conf": "nameserver 169.254.1.53\n", "etc/hostname": "sandbox\n", "etc/machine-id": "",
	} {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s is not a regular file: %v", name, err)
		}
		if got, _ := os.ReadFile(filepath.Join(root, name)); string(got) != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if hosts, _ := os.ReadFile(filepath.Join(root, "etc/hosts")); !strings.Contains(string(hosts), "127.0.0.1\tlocalhost") {
		t.Errorf("etc/hosts holds %q", hosts)
	}
}

func TestBaseImageDirectories(t *testing.T) {
	root := mountBase(t)
	for name, want := range map[string]string{
		"home/user": "755 root", "tmp": "1777 root", "tmp/.X11-unix": "1777 root", ".superserve": "755 root",
		"proc": "555 root", "sys": "555 root", "dev": "755 root", "dev/pts": "755 root", "dev/shm": "1777 root", "run": "755 root",
		"root": "700 root", "var/tmp": "1777 root",
	} {
		if got := inside(t, root, "stat -c '%a %U' /"+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for dir, want := range map[string]string{
		"proc": "", "sys": "", "run": "", "dev": "pts shm", "tmp": ".X11-unix", "home/user": "",
		"var/lib/apt/lists/partial": "", "var/cache/apt/archives/partial": "",
	} {
		if got := inside(t, root, "echo $(ls -A /"+dir+")"); got != want {
			t.Errorf("/%s holds %q, want %q", dir, got, want)
		}
	}
	if got := inside(t, root, "ls /var/lib/apt/lists /var/cache/apt/archives | grep -vxE '(/.*:)?|partial|lock|auxfiles' || true"); got != "" {
		t.Errorf("apt's lists or packages are left: %q", got)
	}
	for _, gone := range []string{"etc/ssh/ssh_host_*", "var/log/dpkg.log", "var/log/bootstrap.log", "var/lib/dbus/machine-id", "dev/null"} {
		if found, _ := filepath.Glob(filepath.Join(root, gone)); len(found) > 0 {
			t.Errorf("%v is in the image", found)
		}
	}
}
