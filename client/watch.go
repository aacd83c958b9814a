package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	gopath "path"
)

// FileEvent is a change of a file.
type FileEvent struct {
	// Event is create, write, remove, rename (of the old name; the new one is a create) or overflow: events were lost,
	// look at the files again.
	Event string `json:"event"`
	// Path is absolute; empty for overflow.
	Path string `json:"path,omitempty"`
}

// FileWatch is a stream of changes. It is used by one goroutine at a time and must be closed.
type FileWatch struct {
	body   io.ReadCloser
	events eventReader
	root   string
	gone   bool
}

// Watch reports changes of a file or of a directory's entries, with recursive also of everything below. Changes made
// after Watch has returned are seen. It goes on until it is closed or ctx is done.
func (d *DataPlane) Watch(ctx context.Context, path string, recursive bool) (*FileWatch, error) {
	r := d.call(http.MethodGet, "/files/watch")
	r.query = url.Values{"path": {path}}
	if recursive {
		r.query.Set("recursive", "true")
	}
	r.header.Set("Accept", "text/event-stream")
	res, _, err := d.client.do(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("watching %s: %w", path, err)
	}
	return &FileWatch{body: res.Body, events: newEventReader(res.Body), root: gopath.Clean(path)}, nil
}

// Next waits for the next change; io.EOF comes after the watched path itself was removed or renamed. A watch that breaks
// off is ErrStreamCut: what changed since is not known.
func (w *FileWatch) Next() (*FileEvent, error) {
	if w.gone {
		return nil, io.EOF
	}
	data, err := w.events.next()
	if err != nil {
		return nil, err
	}
	var e FileEvent
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, fmt.Errorf("decoding an event: %w", err)
	}
	w.gone = e.Path == w.root && (e.Event == "remove" || e.Event == "rename")
	return &e, nil
}

// Events ranges over the changes; an error ends it. Leaving the loop closes nothing.
func (w *FileWatch) Events() iter.Seq2[*FileEvent, error] {
	return func(yield func(*FileEvent, error) bool) {
		for {
			e, err := w.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the watch.
func (w *FileWatch) Close() error {
	if err := w.body.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
