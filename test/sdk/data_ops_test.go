package sdk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/client"
)

func runCommand(c *call) (any, error) {
	res, err := c.box().data.Exec(c.ctx, c.command())
	if err != nil {
		return nil, err
	}
	return map[string]any{"stdout": res.Stdout, "stderr": res.Stderr, "exit_code": res.ExitCode, "truncated": res.Truncated}, nil
}

func runStream(c *call) (any, error) {
	stream, err := c.box().data.ExecStream(c.ctx, c.command())
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var stdout, stderr strings.Builder
	var first time.Time
	for e, err := range stream.Events() {
		if err != nil {
			return nil, err
		}
		if first.IsZero() && e.Stdout+e.Stderr != "" {
			first = time.Now()
		}
		stdout.WriteString(e.Stdout)
		stderr.WriteString(e.Stderr)
		if e.Finished {
			out := map[string]any{"stdout": stdout.String(), "stderr": stderr.String(), "exit_code": *e.ExitCode}
			if !first.IsZero() {
				out["lead_seconds"] = time.Since(first).Seconds()
			}
			return out, nil
		}
	}
	return nil, errors.New("the stream ended without its end")
}

// process is a bound process; its output is gathered in the background.
type process struct {
	*client.Process
	mu             sync.Mutex
	stdout, stderr bytes.Buffer
	code           int
	err            error
	done           chan struct{}
}

// Fields are the object's properties.
func (p *process) Fields() map[string]any {
	return map[string]any{"session_id": p.SessionID, "pid": p.PID}
}

// locked writes to a buffer of p.
type locked struct {
	p  *process
	to *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.to.Write(b)
}

func (c *call) process(started *client.Process, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	p := &process{Process: started, done: make(chan struct{})}
	c.run.open = append(c.run.open, p)
	go func() {
		defer close(p.done)
		p.code, p.err = p.Copy(c.ctx, locked{p, &p.stdout}, locked{p, &p.stderr})
	}()
	return p, nil
}

func spawn(c *call) (any, error) { return c.process(c.box().data.Spawn(c.ctx, c.command())) }

func attach(c *call) (any, error) {
	return c.process(c.box().data.Attach(c.ctx, c.text("session_id"), int64(c.number("offset"))))
}

func listSessions(c *call) (any, error) {
	all, err := c.box().data.Sessions(c.ctx)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, s := range all {
		m := map[string]any{"session_id": s.SessionID, "command": s.Command, "pid": s.PID, "started_at": s.StartedAt}
		if s.ExitCode != nil {
			m["exit_code"] = *s.ExitCode
		}
		out = append(out, m)
	}
	return out, nil
}

func killSession(c *call) (any, error) {
	return nil, c.box().data.KillSession(c.ctx, c.text("session_id"))
}

func writeStdin(c *call) (any, error) {
	_, err := c.on.(*process).Stdin.Write(c.bytes("data"))
	return nil, err
}

func closeStdin(c *call) (any, error) { return nil, c.on.(*process).Stdin.Close() }

func killProcess(c *call) (any, error) {
	signal := c.text("signal")
	if signal == "" {
		signal = "SIGTERM"
	}
	return nil, c.on.(*process).Signal(c.ctx, signal)
}

func readOutput(c *call) (any, error) {
	p := c.on.(*process)
	p.mu.Lock()
	defer p.mu.Unlock()
	return map[string]any{"stdout": p.stdout.String(), "stderr": p.stderr.String()}, nil
}

func wait(c *call) (any, error) {
	p := c.on.(*process)
	select {
	case <-p.done:
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
	return map[string]any{"stdout": p.stdout.String(), "stderr": p.stderr.String(), "exit_code": p.code}, p.err
}

func detach(c *call) (any, error) { return nil, c.on.(*process).Close() }

func filesWrite(c *call) (any, error) {
	content := c.bytes("content")
	_, err := c.box().data.WriteFile(c.ctx, c.text("path"), bytes.NewReader(content), int64(len(content)))
	return nil, err
}

func readAll(f *client.FileReader, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

func filesRead(c *call) (any, error) { return readAll(c.box().data.ReadFile(c.ctx, c.text("path"))) }

func filesReadText(c *call) (any, error) {
	raw, err := readAll(c.box().data.ReadFile(c.ctx, c.text("path")))
	return string(raw), err
}

func filesDownloadDir(c *call) (any, error) {
	return readAll(c.box().data.ReadDirZip(c.ctx, c.text("path")))
}

func fileInfo(f client.FileInfo) map[string]any {
	return map[string]any{"name": f.Name, "path": f.Path, "type": string(f.Type), "size": f.Size, "mode": f.Mode, "modified_at": f.ModifiedAt}
}

func filesList(c *call) (any, error) {
	depth := 1
	if n := c.optional("depth"); n != nil {
		depth = *n
	}
	all, err := c.box().data.ListFiles(c.ctx, c.text("path"), depth)
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, f := range all {
		out = append(out, fileInfo(f))
	}
	return out, nil
}

func filesStat(c *call) (any, error) {
	f, err := c.box().data.Stat(c.ctx, c.text("path"))
	if err != nil {
		return nil, err
	}
	return fileInfo(*f), nil
}

func filesMkdir(c *call) (any, error) { return nil, c.box().data.Mkdir(c.ctx, c.text("path")) }

func filesMove(c *call) (any, error) {
	return nil, c.box().data.Move(c.ctx, c.text("from"), c.text("to"))
}

func filesRemove(c *call) (any, error) {
	return nil, c.box().data.Remove(c.ctx, c.text("path"), arg[bool](c, "recursive"))
}

// watch is a bound watch.
type watch struct{ *client.FileWatch }

// Fields is empty: a watch has no properties.
func (w *watch) Fields() map[string]any { return map[string]any{} }

func filesWatch(c *call) (any, error) {
	w, err := c.box().data.Watch(c.ctx, c.text("path"), arg[bool](c, "recursive"))
	if err != nil {
		return nil, err
	}
	c.run.open = append(c.run.open, w)
	return &watch{w}, nil
}

func watchNext(c *call) (any, error) {
	w := c.on.(*watch)
	type event struct {
		e   *client.FileEvent
		err error
	}
	next := make(chan event, 1)
	go func() {
		e, err := w.Next()
		next <- event{e, err}
	}()
	select {
	case got := <-next:
		if got.err != nil {
			return nil, got.err
		}
		return map[string]any{"event": got.e.Event, "path": got.e.Path}, nil
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("no event came")
	}
}

func watchClose(c *call) (any, error) { return nil, c.on.(*watch).Close() }
