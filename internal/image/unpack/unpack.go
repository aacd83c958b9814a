package unpack

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Unpacker fills one directory. It is not for concurrent use.
type Unpacker struct {
	tree    *tree
	limits  Limits
	bytes   int64 // decompressed so far
	files   int64 // bytes of files so far
	entries int
	looked  int // files that whiteouts have looked at
	// layer holds what the layer under way made, by hash: a million paths would not fit in memory as strings. nil while
	// no layer is under way.
	layer map[uint64]struct{}
	seed  maphash.Seed
	buf   []byte
}

// New returns an Unpacker for an existing directory, to which nobody else may write meanwhile.
func New(name string, limits Limits) (*Unpacker, error) {
	limits = limits.withDefaults()
	t, err := openTree(name, limits.PathBytes)
	if err != nil {
		return nil, err
	}
	return &Unpacker{tree: t, limits: limits, seed: maphash.MakeSeed(), buf: make([]byte, chunkSize)}, nil
}

// Close ends the unpacking. Only then have all directories their modification times.
func (u *Unpacker) Close() error { return u.tree.close() }

// Layer applies the next layer of an image: a tar that is plain or compressed with gzip or zstd. It returns the digest
// of the plain tar.
func (u *Unpacker) Layer(ctx context.Context, r io.Reader) (diffID string, err error) {
	u.layer = map[uint64]struct{}{}
	defer func() { u.layer = nil }()
	return u.unpack(ctx, r)
}

// Archive unpacks a whole root file system, in which names that begin with .wh. mean nothing special.
func (u *Unpacker) Archive(ctx context.Context, r io.Reader) error {
	_, err := u.unpack(ctx, r)
	return err
}

// Bytes is how many decompressed bytes were read so far.
func (u *Unpacker) Bytes() int64 { return u.bytes }

func (u *Unpacker) unpack(ctx context.Context, r io.Reader) (digest string, err error) {
	in := decompress(ctx, r, u.limits.Bytes-u.bytes)
	defer in.close()
	archive := tar.NewReader(struct{ io.Reader }{in})
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", archiveError(ctx, err)
		}
		if ctx.Err() != nil { // what comes next may be in memory already
			return "", ctx.Err()
		}
		u.entries++
		if err := u.entry(h, archive); err != nil {
			return "", entryError(ctx, h.Name, err)
		}
		// One entry can make a thousand directories, so those count too.
		if u.entries+u.tree.made > u.limits.Entries {
			return "", tooLarge("", "there are more than %d entries and directories that they need", u.limits.Entries)
		}
	}
	if err := in.drain(); err != nil {
		return "", archiveError(ctx, err)
	}
	u.bytes += in.size
	return in.digest(), nil
}

// archiveError tells a damaged archive from a failure to read it.
func archiveError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return unsafe("", "it is not a valid tar archive: %v", err)
	}
	return err
}

// entryError says which entry it was. Some limits are the kernel's alone.
func entryError(ctx context.Context, name string, err error) error {
	if _, ok := errors.AsType[*UnsafeError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*TooLargeError](err); ok {
		return err
	}
	switch {
	case errors.Is(err, unix.ENAMETOOLONG):
		return tooLarge(name, "its path is longer than the kernel allows")
	case errors.Is(err, unix.EMLINK):
		return tooLarge(name, "it has more hard links than the server's file system allows")
	}
	return archiveError(ctx, fmt.Errorf("unpacking %s: %w", Quote(name), err))
}

// entry does what one entry says.
func (u *Unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := u.clean(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		if h.Typeflag != tar.TypeDir {
			return unsafe(h.Name, "it stands for the root and is not a directory")
		}
		return u.describe(h, ".")
	}
	if u.layer != nil && strings.HasPrefix(path.Base(name), whiteoutPrefix) {
		return u.whiteout(h.Name, name)
	}
	parent, err := u.tree.resolve(path.Dir(name), true)
	if err != nil {
		return err
	}
	real := path.Join(parent, path.Base(name))
	if len(real) > u.limits.PathBytes {
		return tooLarge(h.Name, "its path has more than %d bytes", u.limits.PathBytes)
	}
	if err := u.place(h, content, real); err != nil {
		return err
	}
	if u.layer != nil {
		u.layer[u.hash(real)] = struct{}{}
	}
	return nil
}

// place makes the entry at its real path, instead of what is there.
func (u *Unpacker) place(h *tar.Header, content io.Reader, real string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(h, real)
	case tar.TypeLink:
		return u.hardLink(h, real)
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		return u.file(h, content, real)
	case tar.TypeSymlink:
		return u.symlink(h, real)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.node(h, real)
	}
	return unsafe(h.Name, "it has the unknown type %q", h.Typeflag)
}

// clean makes an entry's name a path below the root. A leading slash is dropped, as every tool does: there are images
// whose layers are written so.
func (u *Unpacker) clean(name string) (string, error) {
	if len(name) > u.limits.PathBytes {
		return "", tooLarge(name, "its name has more than %d bytes", u.limits.PathBytes)
	}
	if strings.ContainsRune(name, 0) {
		return "", unsafe(name, "its name holds a NUL byte")
	}
	for c := range strings.SplitSeq(name, "/") {
		if c == ".." {
			return "", unsafe(name, `its name holds ".."`)
		}
		if len(c) > maxName {
			return "", tooLarge(name, "a part of its name has more than %d bytes", maxName)
		}
	}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return ".", nil
	}
	return name, nil
}

func (u *Unpacker) hash(real string) uint64 { return maphash.String(u.seed, real) }
