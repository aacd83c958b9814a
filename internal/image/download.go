package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// parallelDownloads is how many layers of one image are downloaded at a time.
	parallelDownloads = 3
	// maxIdle is how many attempts in a row may bring nothing, maxAttempts how many there are in all.
	maxIdle, maxAttempts = 5, 100
	// stallAfter is how long a download may bring nothing at all.
	stallAfter = time.Minute
)

var (
	errMismatch = errors.New("the registry gave other bytes than the digest is of")
	errStalled  = errors.New("the registry sent nothing for a minute")
)

// fetchLayer returns a layer from the cache, open for reading, downloading it first when it is not there. count is told
// how many bytes came; less than nothing when some have to come again.
func (s *Store) fetchLayer(ctx context.Context, reg *registry, desc v1.Descriptor, count func(int64)) (*os.File, error) {
	hex := desc.Digest.Hex
	for {
		f, err := s.openLayer(hex, desc.Size)
		if err == nil {
			count(desc.Size)
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		partial, err := s.lockPartial(ctx, reg.repo.RegistryStr(), hex)
		if err != nil {
			return nil, err
		}
		if partial == nil {
			continue // another pull was faster
		}
		d := &download{reg: reg, desc: desc, file: partial, count: count}
		if err := d.run(ctx); err != nil {
			return nil, errors.Join(err, partial.Close())
		}
		// Opened a second time, since the lock ends with the first; and before it can be pruned.
		f, err = os.Open(partial.Name())
		if err := errors.Join(err, s.commitLayer(partial, hex), partial.Close()); err != nil {
			return nil, err
		}
		return f, nil
	}
}

// download is one layer on its way into its partial file.
type download struct {
	reg   *registry
	desc  v1.Descriptor
	file  *os.File
	count func(int64)
	sum   hash.Hash
	have  int64 // bytes in file, and in sum
}

// run downloads until the file is whole and has its digest, going on after every break.
func (d *download) run(ctx context.Context) error {
	if err := d.takeOver(); err != nil {
		return err
	}
	idle, again := 0, d.have > 0 // what an earlier download left may be damaged
	for range maxAttempts {
		before := d.have
		err := d.attempt(ctx)
		if err == nil && hex.EncodeToString(d.sum.Sum(nil)) != d.desc.Digest.Hex {
			if !again {
				return pullError(ctx, d.reg.repo, "downloading a layer", errors.Join(errMismatch, d.restart()))
			}
			again, err = false, errors.Join(errMismatch, d.restart())
		} else if err == nil {
			return nil
		}
		if idle++; d.have > before {
			idle = 0
		}
		if ctx.Err() != nil || idle >= maxIdle || !passing(err) {
			return pullError(ctx, d.reg.repo, "downloading a layer", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond << idle):
		}
	}
	return &Error{Code: CodePullFailed, Detail: fmt.Sprintf("a layer is not complete after %d attempts", maxAttempts)}
}

// takeOver counts what an earlier download left.
func (d *download) takeOver() error {
	d.sum = sha256.New()
	n, err := io.Copy(d.sum, d.file)
	if err != nil {
		return err
	}
	if n > d.desc.Size {
		return d.restart()
	}
	d.have = n
	d.count(n)
	return nil
}

// restart forgets what there is.
func (d *download) restart() error {
	d.count(-d.have)
	d.have = 0
	d.sum.Reset()
	if err := d.file.Truncate(0); err != nil {
		return err
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// attempt makes one request for what is missing.
func (d *download) attempt(ctx context.Context) error {
	if d.have == d.desc.Size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, start, err := d.reg.blob(ctx, d.desc, d.have)
	if errors.Is(err, errNoRange) {
		return errors.Join(err, d.restart())
	}
	if err != nil {
		return err
	}
	defer body.Close()
	if start != d.have {
		if err := d.restart(); err != nil {
			return err
		}
	}
	stall := time.AfterFunc(stallAfter, func() { cancel(errStalled) })
	defer stall.Stop()
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		stall.Reset(stallAfter)
		if int64(n) > d.desc.Size-d.have {
			return &Error{Code: CodePullFailed, Detail: "the registry gave a larger layer than the manifest says"}
		}
		if n > 0 {
			if _, err := d.file.Write(buf[:n]); err != nil {
				return &BuildError{Step: stepDownload, Err: err}
			}
			d.sum.Write(buf[:n])
			d.have += int64(n)
			d.count(int64(n))
		}
		switch {
		case d.have == d.desc.Size:
			return nil
		case errors.Is(err, io.EOF):
			return io.ErrUnexpectedEOF
		case err != nil && context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}

// passing says whether another attempt may do better.
func passing(err error) bool {
	if _, ok := errors.AsType[*Error](err); ok {
		return false
	}
	if _, ok := errors.AsType[*BuildError](err); ok {
		return false
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests
	}
	return !errors.Is(err, errForbidden) && !errors.Is(err, errPrivate)
}
