package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/registrytest"
)

// made flattens layers into a directory and makes it startable.
func made(t *testing.T, s *Store, workdir string, entries ...registrytest.Entry) (root string) {
	t.Helper()
	noKeychain(t)
	reg := registrytest.New(t, nil)
	ref, _ := reg.Push(t, "app", registrytest.Image(t, v1.Config{WorkingDir: workdir}, registrytest.Layer(t, entries...)))
	return mounted(t, s, pull(t, s, ref).Image.ID)
}

func wantFiles(t *testing.T, root string, want map[string]string) {
	t.Helper()
	for name, content := range want {
		if info, err := os.Lstat(filepath.Join(root, name)); err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v", name, info, err)
		} else if got := readFile(t, filepath.Join(root, name)); got != content {
			t.Errorf("%s holds %q, want %q", name, got, content)
		}
	}
}

func wantModes(t *testing.T, root string, want map[string]string) {
	t.Helper()
	for name, mode := range want {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if got := fmt.Sprintf("%v %d", info.Mode(), info.Sys().(*syscall.Stat_t).Uid); got != mode {
			t.Errorf("%s is %s, want %s", name, got, mode)
		}
	}
}

// One static program and nothing else: the least that is an image.
func TestImageFromScratch(t *testing.T) {
	root := made(t, openStore(t, t.TempDir(), Options{}), "/work/here", registrytest.Program("app", "binary"))
	wantFiles(t, root, map[string]string{
		"etc/passwd":      "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
		"etc/group":       "root:x:0:\nnogroup:x:65534:\n",
		"etc/resolv.conf": "nameserver 169.254.1.53\n", "etc/hostname": "sandbox\n", "app": "binary",
	})
	wantModes(t, root, map[string]string{
		"proc": "dr-xr-xr-x 0", "sys": "dr-xr-xr-x 0", "dev": "drwxr-xr-x 0", "dev/pts": "drwxr-xr-x 0", "dev/shm": "dtrwxrwxrwx 0",
		"run": "drwxr-xr-x 0", "tmp": "dtrwxrwxrwx 0", "tmp/.X11-unix": "dtrwxrwxrwx 0", ".superserve": "drwxr-xr-x 0", "root": "drwx------ 0",
		"home/user": "drwxr-xr-x 0", "work/here": "drwxr-xr-x 0",
	})
	for _, absent := range []string{"etc/machine-id", "usr", "etc/apt", "etc/dpkg", "etc/ssl"} {
		if _, err := os.Lstat(filepath.Join(root, absent)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", absent, err)
		}
	}
}

// What an image has stays as it is.
func TestImageKeepsItsOwn(t *testing.T) {
	owned := func(name string, mode int64, uid int) registrytest.Entry {
		e := registrytest.File(name, "")
		e.Mode, e.Uid = mode, uid
		return e
	}
	root := made(t, openStore(t, t.TempDir(), Options{}), "/srv/link",
		registrytest.File("etc/passwd", "admin:x:0:0::/:/bin/ash\n"), registrytest.File("etc/group", "users:x:100:\n"), registrytest.Program("bin/sh", "shell"),
		owned("tmp/", 0o1770, 5), registrytest.File("tmp/kept", "k"), owned("run/app/", 0o700, 7), owned("home/user/", 0o750, 1000), owned("root/", 0o750, 0),
		registrytest.Symlink("var/run", "/run"), registrytest.Symlink("srv/link", "/opt/real"), owned("opt/real/", 0o711, 9),
		registrytest.File("etc/machine-id", "an id\n"), registrytest.Symlink("etc/resolv.conf", "../run/systemd/resolv.conf"), registrytest.File(".dockerenv", ""),
		registrytest.File("dev/something", "hidden"), registrytest.File("etc/dpkg/dpkg.cfg.d/", ""), registrytest.File("etc/apt/apt.conf.d/", ""),
	)
	wantFiles(t, root, map[string]string{
		"etc/passwd": "admin:x:0:0::/:/bin/ash\n", "etc/group": "root:x:0:\nusers:x:100:\n", "tmp/kept": "k", "etc/machine-id": "",
		"etc/resolv.conf": "nameserver 169.254.1.53\n", "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n", "etc/dpkg/dpkg.cfg.d/90superserve": "force-unsafe-io\n",
	})
	wantModes(t, root, map[string]string{
		"tmp": "dtrwxrwx--- 5", "run/app": "drwx------ 7", "home/user": "drwxr-x--- 1000", "root": "drwxr-x--- 0", "opt/real": "drwx--x--x 9",
		"srv/link": "Lrwxrwxrwx 0", "usr/sbin/policy-rc.d": "-rwxr-xr-x 0",
	})
	for _, absent := range []string{".dockerenv", "dev/something"} {
		if _, err := os.Lstat(filepath.Join(root, absent)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", absent, err)
		}
	}
}

// Links where the server writes: they must lead nowhere but inside.
func TestImageWithHostileLinks(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{ExtraCAFiles: []string{caFile(t, "operator")}})
	fifo := registrytest.File("etc/group", "")
	fifo.Typeflag = '6'
	var links []registrytest.Entry
	for _, name := range []string{"etc/passwd", "etc/resolv.conf", "etc/hosts", "etc/machine-id", "etc/ssl/cert.pem", "tmp", "dev", "proc", ".superserve", "run"} {
		links = append(links, registrytest.Symlink(name, victim))
	}
	links = append(links, registrytest.Symlink("home", outside), registrytest.Symlink("etc/ssl/certs", outside), fifo)
	root := made(t, s, "/home/there", links...)
	if got := readFile(t, victim); got != "the host's" {
		t.Errorf("the host's file now holds %q", got)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Errorf("next to it: %v", entries)
	}
	wantModes(t, root, map[string]string{
		"tmp": "dtrwxrwxrwx 0", "dev": "drwxr-xr-x 0", "proc": "dr-xr-xr-x 0", ".superserve": "drwxr-xr-x 0", "etc/passwd": "-rw-r--r-- 0", "etc/group": "-rw-r--r-- 0",
	})
	// The link leads to nothing inside, so it was replaced.
	wantModes(t, root, map[string]string{"home": "drwxr-xr-x 0", "home/there": "drwxr-xr-x 0"})
}

// A link that leads what the server adds out of the image is the image's fault.
func TestImageLeadsAdditionsAstray(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, nil)
	ref, _ := reg.Push(t, "app", registrytest.Image(t, v1.Config{}, registrytest.Layer(t, registrytest.Symlink("etc", "../../../etc"))))
	_, err := openStore(t, t.TempDir(), Options{}).Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodeUnsafe, "above the root")
}

func caFile(t *testing.T, name string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, testCA(t, name), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestOperatorsCAsInForeignImages(t *testing.T) {
	file := caFile(t, "operator")
	ca, image := readFile(t, file), string(testCA(t, "of the image"))
	for name, c := range map[string]struct {
		entries []registrytest.Entry
		want    map[string]string
	}{
		"Alpine": {[]registrytest.Entry{
			registrytest.File("etc/ssl/certs/ca-certificates.crt", image), registrytest.Symlink("etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"),
		}, map[string]string{"etc/ssl/certs/ca-certificates.crt": image + "\n" + ca}},
		"distroless": {[]registrytest.Entry{registrytest.File("etc/ssl/certs/ca-certificates.crt", image)},
			map[string]string{"etc/ssl/certs/ca-certificates.crt": image + "\n" + ca}},
		"Fedora": {[]registrytest.Entry{
			registrytest.File("etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", image), registrytest.File("etc/pki/ca-trust/source/anchors/", ""),
			registrytest.Symlink("etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
		}, map[string]string{"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem": image + "\n" + ca}},
		"none":    {nil, map[string]string{"etc/ssl/certs/ca-certificates.crt": ca}},
		"already": {[]registrytest.Entry{registrytest.File("etc/ssl/certs/ca-certificates.crt", ca)}, map[string]string{"etc/ssl/certs/ca-certificates.crt": ca}},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{ExtraCAFiles: []string{file}})
			root := made(t, s, "", append(c.entries, registrytest.File("x", name))...)
			wantFiles(t, root, c.want)
			local := "usr/local/share/ca-certificates/superserve-" + s.cas[0].sum[:16] + ".crt"
			wantFiles(t, root, map[string]string{local: ca})
			if name == "Fedora" {
				wantFiles(t, root, map[string]string{"etc/pki/ca-trust/source/anchors/" + filepath.Base(local): ca})
			}
			hash, err := subjectHash(s.cas[0].der)
			if err != nil {
				t.Fatal(err)
			}
			if target, err := os.Readlink(fmt.Sprintf("%s/etc/ssl/certs/%08x.0", root, hash)); err != nil || target != "/"+local {
				t.Errorf("OpenSSL's link: %q, %v", target, err)
			}
		})
	}
}

// The host's own trust store has its files linked under the names that OpenSSL computed.
func TestSubjectHash(t *testing.T) {
	links, err := filepath.Glob("/etc/ssl/certs/*.0")
	if err != nil || len(links) < 50 {
		t.Fatalf("%d links, %v: the package ca-certificates is needed", len(links), err)
	}
	for _, link := range links {
		data, err := os.ReadFile(link)
		if err != nil {
			continue // dangling
		}
		found := parsePEM(data)
		if len(found) != 1 {
			continue
		}
		if hash, err := subjectHash(found[0].der); err != nil || fmt.Sprintf("%08x.0", hash) != filepath.Base(link) {
			t.Errorf("%s: %08x, %v", link, hash, err)
		}
	}
	if _, err := subjectHash([]byte("no certificate")); err == nil {
		t.Error("nonsense has a hash")
	}
}
