package sdk

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// command runs a program in a directory and fails with its output.
func command(t *testing.T, dir string, limit time.Duration, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
	cmd.WaitDelay = 10 * time.Second
	start := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &out)
	}
	t.Logf("%s %s: %.1f s", name, strings.Join(args, " "), time.Since(start).Seconds())
}

// testTypeScript installs, builds and tests the TypeScript SDK, then runs its live tests, and its package in a clean
// project and in the other JavaScript runtimes.
func testTypeScript(t *testing.T) {
	const dir = "../../sdk/typescript"
	command(t, dir, 5*time.Minute, "npm", "ci", "--no-audit", "--no-fund")
	command(t, dir, 3*time.Minute, "npm", "run", "build")
	command(t, dir, 5*time.Minute, "npm", "test")
	command(t, dir, 10*time.Minute, "npm", "run", "test:live")
	t.Run("package", func(t *testing.T) { command(t, dir, 5*time.Minute, "npm", "run", "test:package") })
	t.Run("runtimes", func(t *testing.T) { command(t, dir, 10*time.Minute, "npm", "run", "test:runtimes") })
}

// testPython runs all tests of the Python SDK, the live ones among them; its script makes an environment for them.
func testPython(t *testing.T) {
	command(t, "../../sdk/python", 15*time.Minute, "scripts/test")
}
