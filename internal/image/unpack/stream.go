package unpack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	chunkSize = 256 << 10
	// chunks is how many chunks the decompression is ahead of the unpacking.
	chunks = 8
	// maxWindow bounds the memory that a zstd stream can ask for.
	maxWindow = 128 << 20
)

// errStopped ends the decompression when nobody reads on.
var errStopped = errors.New("stopped")

// stream is a layer's plain tar: decompressed ahead, in another goroutine, which also counts and hashes it.
type stream struct {
	ready chan []byte
	free  chan []byte
	stop  chan struct{}
	ctx   context.Context // also ends a Read: the source may be a connection that is silent
	now   []byte          // what is left of the chunk being read
	held  []byte          // that chunk
	// Set before ready is closed.
	err  error
	sum  hash.Hash
	size int64
}

// decompress starts reading r, which is gzip, zstd or a plain tar by its first bytes, and may give at most limit bytes.
func decompress(ctx context.Context, r io.Reader, limit int64) *stream {
	s := &stream{
		ready: make(chan []byte, chunks), free: make(chan []byte, chunks), stop: make(chan struct{}), ctx: ctx, sum: sha256.New(),
	}
	for range chunks {
		s.free <- nil
	}
	go func() {
		defer close(s.ready)
		s.err = s.fill(ctx, r, limit)
	}()
	return s
}

// fill decompresses into chunks until the end.
func (s *stream) fill(ctx context.Context, r io.Reader, limit int64) error {
	src := &source{r: r}
	plain, err := plainReader(src)
	if err != nil {
		return src.explain(err)
	}
	defer plain.Close()
	for {
		var chunk []byte
		select {
		case chunk = <-s.free:
		case <-s.stop:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
		if chunk == nil {
			chunk = make([]byte, chunkSize)
		}
		n, err := readChunk(plain, chunk[:chunkSize])
		if s.size += int64(n); s.size > limit {
			return tooLarge("", "the layers have more bytes, decompressed, than the limit: only %d were left for this one", limit)
		}
		_, _ = s.sum.Write(chunk[:n])
		if n > 0 {
			s.ready <- chunk[:n] // never blocks: there are as many places as chunks
		}
		if err == io.EOF { //nolint:errorlint // a wrapped end is not a clean one
			return nil
		}
		if err != nil {
			return src.explain(err)
		}
	}
}

// readChunk reads until p is full or r ends. Unlike io.ReadFull it passes the reader's own error on.
func readChunk(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// source remembers whether an error came from the compressed stream's reader or is about what it read.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

func (s *source) explain(err error) error {
	if s.err != nil {
		return fmt.Errorf("reading: %w", s.err)
	}
	return unsafe("", "the compressed data is damaged: %v", err)
}

// Read reads the plain tar.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.now) == 0 {
		if s.held != nil {
			s.free <- s.held
			s.held = nil
		}
		var chunk []byte
		var ok bool
		select {
		case chunk, ok = <-s.ready:
		case <-s.ctx.Done():
			return 0, s.ctx.Err()
		}
		if !ok {
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
		s.held, s.now = chunk, chunk
	}
	n := copy(p, s.now)
	s.now = s.now[n:]
	return n, nil
}

// drain reads to the end, so that the sum is of the whole.
func (s *stream) drain() error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
	return err
}

// close lets the decompression end. It does not wait for it: its source may be a connection that is silent.
func (s *stream) close() { close(s.stop) }

// digest is the SHA-256 of the plain tar, after drain.
func (s *stream) digest() string { return "sha256:" + hex.EncodeToString(s.sum.Sum(nil)) }

// plainReader looks at the first bytes, since media types lie.
func plainReader(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 128<<10)
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), isSkippableFrame(magic):
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// isSkippableFrame knows the frames that may stand before a zstd stream's first (RFC 8878, 3.1.2).
func isSkippableFrame(magic []byte) bool {
	return len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18})
}
