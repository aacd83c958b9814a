package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/registrytest"
	"github.com/superserve/superserve/test/harness"
)

const (
	npmPackage  = "@superserve/sdk@0.8.1"
	pypiPackage = "superserve==0.11.4"
	sandboxHost = "sandbox.superserve.ai"
)

// TestPublishedClients runs the main job with each published client.
func TestPublishedClients(t *testing.T) {
	s := harness.Run(t, map[string]string{"TLS": "internal", "SANDBOX_HOST": sandboxHost})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	show := exec.CommandContext(t.Context(), harness.Binary, "ca", "show")
	show.Env = s.Env()
	pem, err := show.Output()
	if err != nil {
		t.Fatalf("superserve ca show: %v", err)
	}
	if err := os.WriteFile(ca, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, s.Settings["LISTEN"])
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8",
		"SUPERSERVE_BASE_URL=https://localhost", "SUPERSERVE_API_KEY=" + harness.Key,
		"NODE_EXTRA_CA_CERTS=" + ca, "SSL_CERT_FILE=" + ca, "TEMPLATE_IMAGE=" + pushImage(t),
	}
	t.Run("npm", func(t *testing.T) { testNPM(t, w, env) })
	t.Run("pypi", func(t *testing.T) { testPyPI(t, w, env) })
}

// pushImage puts an image of busybox into a registry on loopback: the published clients build from OCI images only.
func pushImage(t *testing.T) (reference string) {
	t.Helper()
	file, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox is not there: apt install busybox-static (make test does)")
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	entries := []registrytest.Entry{
		registrytest.File("bin/", ""), registrytest.File("etc/", ""), registrytest.File("root/", ""),
		registrytest.Program("bin/busybox", string(program)),
		registrytest.File("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), registrytest.File("etc/group", "root:x:0:\n"),
	}
	for _, name := range []string{"sh", "cat", "date", "echo", "mkdir", "sleep", "test"} {
		entries = append(entries, registrytest.Symlink("bin/"+name, "busybox"))
	}
	image := registrytest.Image(t, v1.Config{}, registrytest.Layer(t, entries...))
	reference, _ = registrytest.New(t, nil).Push(t, "compat/busybox:1", image)
	return reference
}

func testNPM(t *testing.T, w *world, env []string) {
	dir := t.TempDir()
	install(t, dir, "npm", "install", "--no-audit", "--no-fund", npmPackage)
	script := place(t, dir, "main-job.mjs")
	args := []string{script}
	if out, err := exec.CommandContext(t.Context(), "node", "-p", "typeof WebSocket").Output(); err != nil {
		t.Fatal(err)
	} else if strings.TrimSpace(string(out)) == "undefined" {
		args = append([]string{"--experimental-websocket"}, args...) // Node before 22
	}
	check(t, func() (string, error) { return w.run(t, dir, env, "node", args...) })
}

func testPyPI(t *testing.T, w *world, env []string) {
	dir := t.TempDir()
	install(t, dir, "python3", "-m", "venv", "venv")
	python := filepath.Join(dir, "venv", "bin", "python")
	install(t, dir, python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", pypiPackage)
	for _, script := range []string{"main_job.py", "main_job_async.py"} {
		t.Run(script, func(t *testing.T) {
			path := place(t, dir, script)
			check(t, func() (string, error) { return w.run(t, dir, env, python, path) })
		})
	}
}

// install runs a package manager in the machine's own network.
func install(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// place copies a script next to the installed package.
func place(t *testing.T, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// check wants a script to succeed and to have come to its end.
func check(t *testing.T, run func() (string, error)) {
	t.Helper()
	out, err := run()
	if err != nil || !strings.HasSuffix(out, "the main job is done\n") {
		t.Fatalf("%v\n%s", err, out)
	}
}
