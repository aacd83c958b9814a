package builder

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// maxLog bounds one build's log, in bytes of its file.
	maxLog = 16 << 20
	// systemRoom is kept free for the builder's own lines.
	systemRoom = 1 << 20
	// maxLogLine is the longest line; a longer one is cut into several. In bytes.
	maxLogLine = 8 << 10
	// lookAgain is how often a follower looks at the row, should nobody tell it that the build is over.
	lookAgain = 10 * time.Second
)

// logLine is a line of the file.
type logLine struct {
	Time   time.Time         `json:"timestamp"`
	Stream control.LogStream `json:"stream"`
	Text   string            `json:"text"`
}

// logs is the directory of logs.
type logs struct {
	dir string

	mu   sync.Mutex
	open map[string]*buildLog // of builds that are not over
}

func openLogs(dir string) (*logs, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of build logs: %w", err)
	}
	return &logs{dir: dir, open: map[string]*buildLog{}}, nil
}

func (l *logs) file(buildID string) string { return filepath.Join(l.dir, buildID+".log") }

// of is the log of a build that is not over.
func (l *logs) of(buildID string) *buildLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.open[buildID]
	if b == nil {
		b = &buildLog{path: l.file(buildID), changed: make(chan struct{})}
		l.open[buildID] = b
	}
	return b
}

// finish closes a build's log. Call it when the row is final.
func (l *logs) finish(buildID string) {
	l.mu.Lock()
	b := l.open[buildID]
	delete(l.open, buildID)
	l.mu.Unlock()
	if b != nil {
		b.close()
	}
}

// buildLog is the log of a build that is not over. Errors of its file are not the build's: they are kept for the
// server's log.
type buildLog struct {
	path string

	mu      sync.Mutex
	file    *os.File
	size    int64
	full    bool
	torn    bool // the last line was cut off, by a full disk
	partial map[control.LogStream]string
	err     error
	over    bool
	changed chan struct{} // closed and replaced at every change
}

// Printf writes a line of the builder's own.
func (b *buildLog) Printf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line(control.LogSystem, fmt.Sprintf(format, args...))
}

// output takes output of a command.
func (b *buildLog) output(stream, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := control.LogStream(stream)
	rest := b.partial[s] + strings.ToValidUTF8(text, "\uFFFD") // valid, so that every cut below takes something
	for {
		line, after, found := strings.Cut(rest, "\n")
		if !found {
			break
		}
		b.line(s, line)
		rest = after
	}
	for len(rest) > maxLogLine {
		cut := len(strings.ToValidUTF8(rest[:maxLogLine], ""))
		b.line(s, rest[:cut])
		rest = rest[cut:]
	}
	if b.partial == nil {
		b.partial = map[control.LogStream]string{}
	}
	b.partial[s] = rest
}

// endOutput ends a command's last line.
func (b *buildLog) endOutput() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, rest := range b.partial {
		if rest != "" {
			b.line(s, rest)
		}
	}
	b.partial = nil
}

// line writes one line. Of a line that a program drew over again and again only the last version counts.
func (b *buildLog) line(stream control.LogStream, text string) {
	if i := strings.LastIndexByte(strings.TrimRight(text, "\r"), '\r'); i >= 0 {
		text = text[i+1:]
	}
	text = strings.ToValidUTF8(strings.TrimRight(text, "\r"), "\uFFFD")
	for len(text) > maxLogLine {
		cut := len(strings.ToValidUTF8(text[:maxLogLine], ""))
		b.write(stream, text[:cut])
		text = text[cut:]
	}
	b.write(stream, text)
}

// write appends to the file. Above the limit only the builder's own lines come in.
func (b *buildLog) write(stream control.LogStream, text string) {
	if stream != control.LogSystem && b.size > maxLog-systemRoom {
		if b.full {
			return
		}
		b.full = true
		stream, text = control.LogSystem, fmt.Sprintf("the log has reached its %d MiB: further output is left out", maxLog>>20)
	}
	data, err := json.Marshal(logLine{Time: time.Now().UTC().Truncate(time.Millisecond), Stream: stream, Text: text})
	if err == nil && b.size+int64(len(data)) < maxLog {
		err = b.append(append(data, '\n'))
	}
	if err != nil && b.err == nil {
		b.err = err
	}
	b.notify()
}

func (b *buildLog) append(data []byte) error {
	if b.file == nil {
		f, err := os.OpenFile(b.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		b.file = f
		if info, err := f.Stat(); err == nil {
			b.size = info.Size()
		}
	}
	if b.torn {
		data = append([]byte{'\n'}, data...) // the next line must not be lost with it
	}
	n, err := b.file.Write(data)
	b.size += int64(n)
	if n > 0 {
		b.torn = n < len(data)
	}
	return err
}

func (b *buildLog) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// close ends the log.
func (b *buildLog) close() {
	b.endOutput()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.file != nil {
		b.err = errors.Join(b.err, b.file.Close())
	}
	b.notify()
}

// state tells whether the log is over, and what to wait for when it is not.
func (b *buildLog) state() (changed <-chan struct{}, over bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed, b.over
}

// Logs implements control.Builder.
func (b *Builder) Logs(ctx context.Context, buildID string, follow bool, emit func(control.LogEvent) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	r := &logReader{path: b.logs.file(buildID), emit: emit}
	defer r.close()
	for {
		row, err := b.cfg.Store.Build(ctx, buildID)
		if err != nil {
			return err
		}
		if row.Status.Final() {
			b.logs.finish(buildID)
			if err := r.read(); err != nil {
				return err
			}
			at := time.Now()
			if row.FinalizedAt != nil {
				at = *row.FinalizedAt
			}
			return emit(control.LogEvent{Time: at, Stream: control.LogSystem, Text: finalText(row), Finished: true, Status: row.Status})
		}
		if !follow {
			return r.read()
		}
		if err := r.follow(ctx, b.logs.of(buildID)); err != nil {
			return err
		}
	}
}

// finalText is the last line of a log.
func finalText(row *sandbox.Build) string {
	if row.ErrorMessage != "" {
		return fmt.Sprintf("the build is %s: %s", row.Status, row.ErrorMessage)
	}
	return fmt.Sprintf("the build is %s", row.Status)
}

// logReader reads one log from the beginning.
type logReader struct {
	path string
	emit func(control.LogEvent) error
	file *os.File
	in   *bufio.Reader
	part []byte // a line that was not there to its end
}

// follow reads until the log is over, or for so long that the row should be looked at again.
func (r *logReader) follow(ctx context.Context, l *buildLog) error {
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	for {
		changed, over := l.state()
		if err := r.read(); err != nil || over {
			return err
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// read emits what has come since the last time.
func (r *logReader) read() error {
	if r.file == nil {
		f, err := os.Open(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return sandbox.Internal("opening the build's log", err)
		}
		r.file, r.in = f, bufio.NewReader(f)
	}
	for {
		some, err := r.in.ReadBytes('\n')
		r.part = append(r.part, some...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return sandbox.Internal("reading the build's log", err)
		}
		var line logLine
		if json.Unmarshal(r.part, &line) == nil { // a crash may have cut one
			if err := r.emit(control.LogEvent{Time: line.Time, Stream: line.Stream, Text: line.Text}); err != nil {
				return err
			}
		}
		r.part = r.part[:0]
	}
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}
