package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

// The examples of docs/go-client.md; TestGoClientPage holds the page against this file.

// inSandbox runs an example with the data plane of a new sandbox of the shared server.
func inSandbox(example func(ctx context.Context, dp *client.DataPlane) error) {
	ctx := context.Background()
	c, err := client.New(shared.URL, testKey)
	if err != nil {
		panic(err)
	}
	sb, err := c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "example"})
	if err != nil {
		panic(err)
	}
	defer c.DeleteSandbox(ctx, sb.ID)
	dp, err := c.DataPlane(sb)
	if err == nil {
		err = example(ctx, dp)
	}
	if err != nil {
		fmt.Println(err)
	}
}

func exampleSandbox(ctx context.Context) error {
	c, err := client.FromEnv()
	if err != nil {
		return err
	}
	sb, err := c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "job"})
	if err != nil {
		return err
	}
	defer c.DeleteSandbox(context.WithoutCancel(ctx), sb.ID)
	dp, err := c.DataPlane(sb)
	if err != nil {
		return err
	}
	_, err = dp.Exec(ctx, client.ExecRequest{Command: "true"})
	return err
}

func TestGoClientSandbox(t *testing.T) {
	t.Setenv("SUPERSERVE_BASE_URL", shared.URL)
	t.Setenv("SUPERSERVE_API_KEY", testKey)
	if err := exampleSandbox(t.Context()); err != nil {
		t.Error(err)
	}
}

func Example_exec() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		res, err := dp.Exec(ctx, client.ExecRequest{Command: "seq 3 | tac"})
		if err != nil {
			return err
		}
		fmt.Printf("%q %d\n", res.Stdout, res.ExitCode)
		return nil
	})
	// Output: "3\n2\n1\n" 0
}

func Example_spawn() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		p, err := dp.Spawn(ctx, client.ExecRequest{Command: "sort -r"})
		if err != nil {
			return err
		}
		defer p.Close()
		if _, err := io.WriteString(p.Stdin, "a\nb\nc\n"); err != nil {
			return err
		}
		if err := p.Stdin.Close(); err != nil {
			return err
		}
		code, err := p.Copy(ctx, os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Println("exit code", code)
		return nil
	})
	// Output:
	// c
	// b
	// a
	// exit code 0
}

func Example_attach() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		p, err := dp.Spawn(ctx, client.ExecRequest{Command: "echo one; read x; echo two"})
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(p.Stdout, make([]byte, len("one\n"))); err != nil {
			return err
		}
		if _, err := io.WriteString(p.Stdin, "go on\n"); err != nil {
			return err
		}
		if err := p.Close(); err != nil {
			return err
		}
		// "two" has come by now or it has not; the offset counts it or does not.
		_, _ = io.Copy(os.Stdout, p.Stdout)
		again, err := dp.Attach(ctx, p.SessionID, p.Offset())
		if err != nil {
			return err
		}
		defer again.Close()
		code, err := again.Copy(ctx, os.Stdout, os.Stderr)
		if err != nil {
			return err
		}
		fmt.Println("exit code", code, "skipped", again.Skipped())
		return nil
	})
	// Output:
	// two
	// exit code 0 skipped 0
}

func Example_terminal() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		t, err := dp.Terminal(ctx, 80, 24)
		if err != nil {
			return err
		}
		defer t.Close()
		if _, err := io.WriteString(t, "stty size > /tmp/size; exit 3\r"); err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, t); err != nil {
			return err
		}
		code, err := t.Wait(ctx)
		if err != nil {
			return err
		}
		fmt.Println("exit code", code)
		return nil
	})
	// Output: exit code 3
}

func Example_files() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		content := "a,b\n1,2\n"
		if _, err := dp.WriteFile(ctx, "/home/user/data.csv", strings.NewReader(content), int64(len(content))); err != nil {
			return err
		}
		f, err := dp.ReadFile(ctx, "/home/user/data.csv")
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := io.Copy(os.Stdout, f); err != nil {
			return err
		}
		return nil
	})
	// Output:
	// a,b
	// 1,2
}

func Example_watch() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		w, err := dp.Watch(ctx, "/home/user", false)
		if err != nil {
			return err
		}
		defer w.Close()
		if err := dp.Mkdir(ctx, "/home/user/results"); err != nil {
			return err
		}
		for e, err := range w.Events() {
			if err != nil {
				return err
			}
			fmt.Println(e.Event, e.Path)
			break
		}
		return nil
	})
	// Output: create /home/user/results
}

func Example_errors() {
	inSandbox(func(ctx context.Context, dp *client.DataPlane) error {
		var err error
		_, err = dp.ReadFile(ctx, "/no/such/file")
		fmt.Println(client.IsNotFound(err), client.CodeOf(err))
		return nil
	})
	// Output: true not_found
}

// Every example on the page stands in this file, indentation aside.
func TestGoClientPage(t *testing.T) {
	flat := func(text string) string {
		lines := strings.Split(strings.TrimSpace(text), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		return strings.Join(lines, "\n")
	}
	source := flat(readFile(t, "goclient_test.go"))
	parts := strings.Split(readFile(t, "../../docs/go-client.md"), "```go\n")
	if len(parts) < 8 {
		t.Fatalf("the page has only %d examples", len(parts)-1)
	}
	for _, part := range parts[1:] {
		code, _, _ := strings.Cut(part, "```")
		if !strings.Contains(source, flat(code)) {
			t.Errorf("this example is run by no test:\n%s", code)
		}
	}
}
