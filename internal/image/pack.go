package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
)

// pack writes the root file system at dir into the EROFS file at name, and syncs it.
//
// The image is not compressed: sandboxes start and read faster from plain blocks, the page cache holds them once
// either way, and the host's disk is the cheapest of what a sandbox needs. Modification times are kept, since Python's
// compiled files are checked against them. Two images of one tree still differ in the time they were made, which
// mkfs.erofs 1.5 can fix only for all files at once; ids need not be reproducible, only unique.
func pack(ctx context.Context, dir, name, tmp string) error {
	err := tool{
		step: stepPack, tmp: tmp,
		argv: []string{"mkfs.erofs", "--quiet", "--preserve-mtime", "-U", "5e7f5e7e-0000-4000-8000-000000000001", name, dir},
	}.run(ctx)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return &BuildError{Step: stepPack, Err: err}
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return &BuildError{Step: stepPack, Err: err}
	}
	return nil
}

// digest is the SHA-256 of a file, in hex, and its size.
func digest(name string) (sum string, size int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}
