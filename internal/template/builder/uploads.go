package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/superserve/superserve/internal/durable"
	"github.com/superserve/superserve/internal/sandbox"
)

// partPrefix begins the name of an upload that is still being received.
const partPrefix = "part-"

func (b *Builder) uploadDir() string { return filepath.Join(b.cfg.Dir, "uploads") }

// uploadPath is the file of an upload; the digest was checked to be one.
func (b *Builder) uploadPath(kind sandbox.UploadKind, digest string) string {
	return filepath.Join(b.uploadDir(), uploadName(kind, digest))
}

func uploadName(kind sandbox.UploadKind, digest string) string {
	return string(kind) + "-" + strings.TrimPrefix(digest, "sha256:")
}

// openUploads makes the directory and removes what was cut off.
func (b *Builder) openUploads() error {
	if err := durable.MkdirAll(b.uploadDir(), 0o700); err != nil {
		return fmt.Errorf("making the directory of uploads: %w", err)
	}
	parts, err := filepath.Glob(filepath.Join(b.uploadDir(), partPrefix+"*"))
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := os.Remove(p); err != nil {
			b.cfg.Logger.Error("an upload that was cut off could not be removed", "error", err)
		}
	}
	return nil
}

// PutUpload implements control.Builder.
func (b *Builder) PutUpload(_ context.Context, kind sandbox.UploadKind, r io.Reader, limit int64, keep func(digest string, size int64) error) error {
	part, err := os.CreateTemp(b.uploadDir(), partPrefix)
	if err != nil {
		return sandbox.Internal("storing the upload", err)
	}
	defer func() {
		_ = part.Close()
		_ = os.Remove(part.Name()) // renamed by now if all went well
	}()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(part, sum), io.LimitReader(r, limit+1))
	if err != nil {
		if _, ours := errors.AsType[*os.PathError](err); ours {
			return storingFailed(err)
		}
		return sandbox.Errorf(sandbox.CodeBadRequest, "the body ended early")
	}
	if size > limit {
		return sandbox.Errorf(sandbox.CodeTooLarge, "the upload is larger than %d MiB", limit>>20)
	}
	if err := checkUpload(kind, part); err != nil {
		return err
	}
	if err := part.Sync(); err != nil {
		return storingFailed(err)
	}
	digest := "sha256:" + hex.EncodeToString(sum.Sum(nil))
	b.uploading.RLock()
	defer b.uploading.RUnlock()
	if err := errors.Join(os.Rename(part.Name(), b.uploadPath(kind, digest)), durable.SyncDir(b.uploadDir())); err != nil {
		return storingFailed(err)
	}
	return keep(digest, size) // on error it stays for now: another team may have it too
}

// storingFailed is the answer to an upload that this machine could not store.
func storingFailed(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "storing the upload failed: the host's disk is full", Cause: err}
	}
	return sandbox.Internal("storing the upload", err)
}

// maxUploadEntries bounds how many entries an upload may have.
const maxUploadEntries = 200_000

// checkUpload reads through an upload once.
func checkUpload(kind sandbox.UploadKind, file io.ReadSeeker) error {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return sandbox.Internal("reading the upload", err)
	}
	entries, index := 0, false
	err := eachEntry(file, func(_ *tar.Header, name string, _ io.Reader) error {
		if entries++; entries > maxUploadEntries {
			return &refusal{text: fmt.Sprintf("the upload has more than %d entries", maxUploadEntries)}
		}
		index = index || name == "index.json" || name == "manifest.json"
		return nil
	})
	if why, ok := errors.AsType[*refusal](err); ok {
		return sandbox.Errorf(sandbox.CodeBadRequest, "%s", why.text)
	}
	if err != nil {
		return sandbox.Internal("reading the upload", err)
	}
	if kind == sandbox.UploadImage && !index {
		return sandbox.Errorf(sandbox.CodeBadRequest,
			"the upload is no image: it has neither the index.json of an OCI layout nor the manifest.json of docker save")
	}
	return nil
}
