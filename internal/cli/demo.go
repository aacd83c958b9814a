package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

const (
	demoDir     = "/home/user/demo"
	demoProgram = demoDir + "/count.py"
	demoCounter = demoDir + "/count"
	// demoPython counts up for ever and keeps "<pid> <count>" in a file, replaced whole so that no half of it is read.
	demoPython = `import os, time
n = 0
while True:
    n += 1
    with open("` + demoCounter + `.new", "w") as f:
        f.write(f"{os.getpid()} {n}")
    os.rename("` + demoCounter + `.new", "` + demoCounter + `")
    time.sleep(0.05)
`
	// demoPatience bounds one step that waits for the program.
	demoPatience = 20 * time.Second
)

func (a *App) demoCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Take one sandbox through its life and show how long each step takes",
		Long: `Create a sandbox, start a Python program that counts, write and read a file, pause, resume, see that the same
process is still counting, and delete it. Uses the server of SUPERSERVE_BASE_URL and SUPERSERVE_API_KEY, else the one
that runs in --data-dir.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.localClient(cmd)
			if err != nil {
				return err
			}
			return a.demo(cmd.Context(), c)
		},
	}
	bindSettings(cmd, "data-dir")
	return cmd
}

// localClient is a client of the server in --data-dir when the environment names none.
func (a *App) localClient(cmd *cobra.Command) (*client.Client, error) {
	cfg, _, err := a.settings(cmd)
	if err != nil {
		return nil, err
	}
	if key := a.getenv("SUPERSERVE_API_KEY"); key != "" && !cmd.Flags().Changed("data-dir") {
		return a.client()
	}
	local, err := runningServerOf(cfg)
	if err != nil {
		return nil, err
	}
	key, err := a.serverKey(cfg)
	if err == nil && key == "" {
		key = a.getenv("SUPERSERVE_API_KEY")
	}
	if err == nil && key == "" {
		err = errNoKey
	}
	if err != nil {
		return nil, err
	}
	return local.client(a, key)
}

// demoRun is one run of the demo.
type demoRun struct {
	app    *App
	client *client.Client
	id     string
	plane  *client.DataPlane
	// pid and count are the program's, as seen last.
	pid, count int
	steps      []demoStep
}

// demoStep is one step as it was, for --json.
type demoStep struct {
	Step   string `json:"step"`
	Millis int64  `json:"milliseconds"`
	Note   string `json:"note"`
}

// demo runs all steps. The sandbox is deleted also when one fails.
func (a *App) demo(ctx context.Context, c *client.Client) (err error) {
	d := &demoRun{app: a, client: c}
	defer func() {
		if err != nil && d.id != "" {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), demoPatience)
			defer cancel()
			err = errors.Join(err, c.DeleteSandbox(ctx, d.id))
		}
	}()
	for _, s := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"create", d.create}, {"run python3", d.run}, {"write and read a file", d.file}, {"pause", d.pause},
		{"resume", d.resume}, {"still counting", d.stillCounting}, {"delete", d.delete},
	} {
		start := time.Now()
		note, err := s.do(ctx)
		if err != nil {
			return fmt.Errorf("demo step %q: %w", s.name, err)
		}
		d.report(demoStep{Step: s.name, Millis: time.Since(start).Milliseconds(), Note: note})
	}
	if a.json {
		return a.printJSON(d.steps)
	}
	return nil
}

func (d *demoRun) report(s demoStep) {
	d.steps = append(d.steps, s)
	if !d.app.json {
		fmt.Fprintf(d.app.Out, "  %-22s %6d ms  %s\n", s.Step, s.Millis, printable(s.Note))
	}
}

func (d *demoRun) create(ctx context.Context) (string, error) {
	sb, err := d.client.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "demo"})
	if err != nil {
		return "", err
	}
	d.id = sb.ID
	d.plane, err = d.client.DataPlane(sb)
	return sb.ID, err
}

func (d *demoRun) run(ctx context.Context) (string, error) {
	if err := d.write(ctx, demoProgram, []byte(demoPython)); err != nil {
		return "", err
	}
	res, err := d.plane.Exec(ctx, client.ExecRequest{
		Command: "python3 --version && (setsid python3 " + demoProgram + " >/dev/null 2>&1 </dev/null &)",
	})
	if err != nil {
		return "", err
	}
	if res.ExitCode != 0 {
		return "", fmt.Errorf("python3 exited with %d: %s", res.ExitCode, strings.TrimSpace(res.Stderr))
	}
	if err := d.awaitCount(ctx, 0); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s counts in the background, process %d", strings.TrimSpace(res.Stdout), d.pid), nil
}

func (d *demoRun) file(ctx context.Context) (string, error) {
	want := bytes.Repeat([]byte("superserve\n"), 100_000)
	if err := d.write(ctx, demoDir+"/data", want); err != nil {
		return "", err
	}
	got, err := d.read(ctx, demoDir+"/data", int64(len(want))+1)
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("the file came back different")
	}
	return mib(int64(len(want))) + " each way, identical", err
}

func (d *demoRun) pause(ctx context.Context) (string, error) {
	if err := d.look(ctx); err != nil {
		return "", err
	}
	if err := d.client.PauseSandbox(ctx, d.id); err != nil {
		return "", err
	}
	return fmt.Sprintf("the count was %d", d.count), nil
}

func (d *demoRun) resume(ctx context.Context) (string, error) {
	if _, err := d.client.ResumeSandbox(ctx, d.id); err != nil {
		return "", err
	}
	var err error
	d.plane, err = d.client.Connect(ctx, d.id)
	return "with a new access token", err
}

// stillCounting is the proof: the same process goes on from where it was.
func (d *demoRun) stillCounting(ctx context.Context) (string, error) {
	pid, before := d.pid, d.count
	if err := d.awaitCount(ctx, before); err != nil {
		return "", err
	}
	if d.pid != pid {
		return "", fmt.Errorf("process %d counts, but before the pause it was %d", d.pid, pid)
	}
	return fmt.Sprintf("process %d is at %d", d.pid, d.count), nil
}

func (d *demoRun) delete(ctx context.Context) (string, error) {
	if err := d.client.DeleteSandbox(ctx, d.id); err != nil {
		return "", err
	}
	_, err := d.client.GetSandbox(ctx, d.id)
	switch {
	case err == nil:
		return "", errors.New("the sandbox is still there after the delete")
	case !client.IsNotFound(err):
		return "", err
	}
	return "404 from now on", nil
}

// awaitCount polls until the program has counted past n.
func (d *demoRun) awaitCount(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, demoPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := d.look(ctx)
		if err == nil && d.count > n {
			return nil
		}
		if err != nil && !client.IsNotFound(err) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the program has not counted past %d in %s", n, demoPatience)
		}
	}
}

func (d *demoRun) look(ctx context.Context) error {
	data, err := d.read(ctx, demoCounter, 64)
	if err != nil {
		return err
	}
	pid, count, ok := strings.Cut(string(data), " ")
	if d.pid, err = strconv.Atoi(pid); err == nil && ok {
		d.count, err = strconv.Atoi(count)
	}
	if err != nil || !ok {
		return fmt.Errorf("the counter holds %q", data)
	}
	return nil
}

func (d *demoRun) write(ctx context.Context, path string, data []byte) error {
	_, err := d.plane.WriteFile(ctx, path, bytes.NewReader(data), int64(len(data)))
	return err
}

// read is a whole file of at most limit bytes.
func (d *demoRun) read(ctx context.Context, path string, limit int64) ([]byte, error) {
	f, err := d.plane.ReadFile(ctx, path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return data, errors.Join(err, f.Close())
}
