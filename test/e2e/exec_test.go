package e2e

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

func TestExecEndings(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	for _, c := range []struct {
		name           string
		req            client.ExecRequest
		code           int
		stdout, stderr string
	}{
		{"success", client.ExecRequest{Command: "echo out; echo err >&2"}, 0, "out\n", "err\n"},
		{"exit code", client.ExecRequest{Command: "exit 7"}, 7, "", ""},
		{"signal", client.ExecRequest{Command: "kill -TERM $$"}, 143, "", ""},
		{"timeout", client.ExecRequest{Command: "echo before; sleep 60", TimeoutSeconds: 0.5}, 124, "before\n", ""},
		{"arguments", client.ExecRequest{Command: "printf", Args: []string{"%s|", "a b", "$HOME"}}, 0, "a b|$HOME|", ""},
		{"environment", client.ExecRequest{Command: "echo $A", Env: map[string]string{"A": "call"}}, 0, "call\n", ""},
		{"directory", client.ExecRequest{Command: "pwd", WorkingDir: "/usr/lib"}, 0, "/usr/lib\n", ""},
		{"user", client.ExecRequest{Command: "id -un", User: "nobody"}, 0, "nobody\n", ""},
		{"not UTF-8", client.ExecRequest{Command: `printf 'a\377b'`}, 0, "a\ufffdb", ""},
		{"a child holds the pipe", client.ExecRequest{Command: "sleep 100 & echo done"}, 0, "done\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			res, err := b.data.Exec(t.Context(), c.req)
			if err != nil {
				t.Fatal(err)
			}
			if res.ExitCode != c.code || res.Stdout != c.stdout || res.Stderr != c.stderr {
				t.Errorf("got %d %q %q, want %d %q %q", res.ExitCode, res.Stdout, res.Stderr, c.code, c.stdout, c.stderr)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	for path, code := range map[string]int{"/no/such/program": 127, "/etc/passwd": 126} {
		res, err := b.data.Exec(t.Context(), client.ExecRequest{Command: path, Args: []string{}})
		if err != nil || res.ExitCode != code {
			t.Errorf("%s: %+v, %v; want exit %d", path, res, err, code)
		}
	}
}

// A child left behind runs on after its exec has answered.
func TestChildrenRunOn(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.sh("(sleep 0.3; echo late; echo survived > /home/user/late) &")
	eventually(t, 20*time.Second, "the child has written", func() bool {
		return b.run("cat /home/user/late").Stdout == "survived\n"
	})
}

func TestExecStream(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	stream, err := b.data.ExecStream(t.Context(), client.ExecRequest{
		Command: "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.05; done; printf 'grün'; exit 3"})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var stdout, stderr bytes.Buffer
	code, err := stream.Copy(&stdout, &stderr)
	if err != nil || code != 3 || stdout.String() != "o1\no2\no3\ngrün" || stderr.String() != "e1\ne2\ne3\n" {
		t.Errorf("exit %d, %q, %q, %v", code, stdout.String(), stderr.String(), err)
	}
}

// A command that floods its output neither grows the server nor stops anything else.
func TestFlood(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	res, err := b.data.Exec(t.Context(), client.ExecRequest{Command: "yes flood", TimeoutSeconds: 5})
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode != 124 || !res.Truncated || len(res.Stdout) < 4<<20 || len(res.Stdout) > 5<<20 {
		t.Errorf("exit %d, truncated %v, %d bytes", res.ExitCode, res.Truncated, len(res.Stdout))
	}
	before := shared.residentMiB(t)
	stream, err := b.data.ExecStream(t.Context(), client.ExecRequest{Command: "yes flood", TimeoutSeconds: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var n counter
	code, err := stream.Copy(&n, io.Discard)
	if err != nil || code != 124 || n < 10<<20 {
		t.Errorf("stream: exit %d after %d bytes, %v", code, n, err)
	}
	if grown := shared.residentMiB(t) - before; grown > 100 {
		t.Errorf("the server grew by %d MiB", grown)
	}
	if got := b.sh("echo fine"); got != "fine" {
		t.Errorf("afterwards %q", got)
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestExecBadInput(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	for name, req := range map[string]client.ExecRequest{
		"no command":           {},
		"directory is missing": {Command: "true", WorkingDir: "/no/such"},
		"unknown user":         {Command: "true", User: "nosuch"},
		"negative timeout":     {Command: "true", TimeoutSeconds: -1},
		"bad variable":         {Command: "true", Env: map[string]string{"A=B": "c"}},
	} {
		if _, err := b.data.Exec(t.Context(), req); !client.IsBadRequest(err) {
			t.Errorf("%s: %v, want 400", name, err)
		}
	}
	if _, err := b.data.Exec(t.Context(), client.ExecRequest{Command: strings.Repeat("x", 2<<20)}); client.StatusOf(err) != 413 {
		t.Errorf("a command of 2 MiB: %v, want 413", err)
	}
}
