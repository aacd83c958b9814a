package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
)

// uploadBuffer is how much of an upload is read at once.
const uploadBuffer = 128 << 10

// errUploadOver ends the reading for an upload whose call has returned.
var errUploadOver = errors.New("the upload is over")

// send makes content the call's body. size is its length, -1 when unknown. done must be called when the call is over.
//
// The transport waits for a Read of the body before it gives a call up, and a terminal or a pipe may have nothing to read
// for ever. So content is read by a goroutine of its own, which ends with content or after the Read it is in.
func (r *call) send(ctx context.Context, content io.Reader, size int64) (done func(), err error) {
	r.contentLength = size
	if size == 0 {
		r.body = http.NoBody
		if n, err := io.ReadFull(content, make([]byte, 1)); n > 0 {
			return nil, errors.New("the content is longer than the size that was given, which is 0; -1 stands for an unknown one")
		} else if !errors.Is(err, io.EOF) {
			return nil, err
		}
		return func() {}, nil
	}
	switch content.(type) {
	case *bytes.Reader, *bytes.Buffer, *strings.Reader: // they never wait
		r.body = io.NopCloser(content) // what could be closed is the caller's
		return func() {}, nil
	}
	p := newPipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{pipeWriter{p}}, struct{ io.Reader }{content}, make([]byte, uploadBuffer))
		if err == nil {
			err = io.EOF
		}
		p.close(err)
	}()
	stop := context.AfterFunc(ctx, func() { p.abort(context.Cause(ctx)) })
	r.body = io.NopCloser(p)
	return func() {
		stop()
		p.abort(errUploadOver)
	}, nil
}

// pipeWriter is the writing end of a pipe.
type pipeWriter struct{ p *pipe }

// Write waits until all of b is in the pipe.
func (w pipeWriter) Write(b []byte) (int, error) {
	if err := w.p.write(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
