package guest

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/superserve/superserve/internal/guestapi"
)

// maxTarEntries bounds the number of entries of an uploaded tar; a longer one is 413.
const maxTarEntries = 100000

// unpackTar unpacks an archive into dir, which is made if need be, and returns the bytes of all files in it. Every
// file is written to a temporary name and renamed; what was unpacked before an error stays.
//
// Nothing is written outside dir: all names are resolved by os.Root, which no symlink leads out of. Symlinks in the
// archive may point anywhere. Devices and FIFOs are refused, setuid bits dropped, the archive's owners ignored.
func unpackTar(dir string, content io.Reader, own owner) (int64, error) {
	if err := makeDirs(dir, own); err != nil {
		return 0, fileError(err, dir, true)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fileError(err, dir, true)
	}
	defer closeRead(root)
	b := &body{r: content}
	u := &unpacker{root: root, own: own, body: b, buf: make([]byte, copyBuffer)}
	archive := tar.NewReader(b)
	for entries := 0; ; entries++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if entries >= maxTarEntries {
			return 0, tooLarge("the archive has more than %d entries", maxTarEntries)
		}
		if err == nil {
			err = u.entry(header, archive)
		}
		if err != nil {
			return 0, u.explain(err)
		}
	}
	// Tools pad archives: the rest is read to see that the body came whole.
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, b, u.buf); err != nil {
		return 0, u.explain(err)
	}
	return u.size, nil
}

// unpacker is one unpackTar.
type unpacker struct {
	root   *os.Root
	own    owner
	body   *body
	buf    []byte
	size   int64
	parent string // the directory made last, which most entries share
}

// explain turns an error into an answer.
func (u *unpacker) explain(err error) error {
	if u.body.err != nil {
		return badRequest("the body ended early; entries before the end are unpacked")
	}
	if api, ok := errors.AsType[*apiError](err); ok {
		return api
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return fileError(err, "an entry", true)
	}
	return badRequest("the body is not a valid tar archive: %s", err)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := entryName(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		err = u.directory(name, h)
	} else if name == "." {
		return badRequest("the archive's entry %q is no file name", h.Name)
	} else if err = u.parents(path.Dir(name)); err == nil {
		err = u.leaf(name, h, content)
	}
	return u.entryError(err, h.Name)
}

// entryError names the entry in the errors that are the archive's own fault.
func (u *unpacker) entryError(err error, name string) error {
	if err == nil || u.body.err != nil {
		return err
	}
	if _, ok := errors.AsType[*apiError](err); ok {
		return err
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return fileError(err, name, true)
	}
	return badRequest("the archive's entry %q: %s", name, err) // os.Root's own: the path escapes
}

// leaf makes anything but a directory.
func (u *unpacker) leaf(name string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(name, h, content)
	case tar.TypeSymlink:
		if h.Linkname == "" || hasNUL(h.Linkname) || len(h.Linkname) > guestapi.MaxPath {
			return badRequest("the archive's symlink %q has no valid target", h.Name)
		}
		return u.replace(name, func(tmp string) error {
			if err := u.root.Symlink(h.Linkname, tmp); err != nil {
				return err
			}
			return u.give(tmp)
		})
	case tar.TypeLink:
		target, err := entryName(h.Linkname)
		if err != nil {
			return err
		}
		return u.link(target, name, h)
	}
	return badRequest("the archive's entry %q is neither a file, a directory nor a link", h.Name)
}

// file makes a regular file.
func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	return u.replace(name, func(tmp string) error {
		file, err := u.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // after an error; else it is closed below
		n, err := io.CopyBuffer(struct{ io.Writer }{file}, content, u.buf)
		if err == nil && u.own.uid != 0 {
			err = file.Chown(u.own.uid, u.own.gid)
		}
		if err == nil {
			err = file.Chmod(fs.FileMode(h.Mode) & 0o777)
		}
		if err == nil {
			err = file.Close()
		}
		if err == nil {
			u.size += n
			err = u.root.Chtimes(tmp, h.ModTime, h.ModTime)
		}
		return err
	})
}

// link makes a hard link to an entry that was there before. A link to itself is none.
func (u *unpacker) link(target, name string, h *tar.Header) error {
	if target == name {
		return badRequest("the archive's entry %q is a hard link to itself", h.Name)
	}
	info, err := u.root.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return badRequest("the archive's entry %q is a hard link to %q, which is not there", h.Name, h.Linkname)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
		return badRequest("the archive's entry %q is a hard link to something that is no file", h.Name)
	}
	return u.replace(name, func(tmp string) error { return u.root.Link(target, tmp) })
}

// replace lets make create something under a temporary name and renames it to name.
func (u *unpacker) replace(name string, make func(tmp string) error) error {
	tmp := path.Join(path.Dir(name), temporaryName())
	err := make(tmp)
	if err == nil {
		if err = u.root.Rename(tmp, name); errors.Is(err, syscall.EEXIST) {
			err = isDirectory(name)
		}
	}
	// Also after a rename that worked: between two names of one file, rename does nothing and leaves both.
	_ = u.root.Remove(tmp)
	return err
}

// directory makes a directory, or gives an existing one the mode.
func (u *unpacker) directory(name string, h *tar.Header) error {
	if name == "." {
		return nil
	}
	if err := u.parents(name); err != nil {
		return err
	}
	return u.root.Chmod(name, fs.FileMode(h.Mode)&0o777)
}

// parents makes dir and what it lacks above it.
func (u *unpacker) parents(dir string) error {
	if dir == "." || dir == u.parent {
		return nil
	}
	if info, err := u.root.Stat(dir); err == nil {
		if !info.IsDir() {
			return syscall.ENOTDIR
		}
		u.parent = dir
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	if err := u.root.Mkdir(dir, newDirMode); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return syscall.ENOTDIR // a symlink to nowhere
		}
		return err
	}
	u.parent = dir
	return u.give(dir)
}

func (u *unpacker) give(name string) error {
	if u.own.uid == 0 {
		return nil
	}
	return u.root.Lchown(name, u.own.uid, u.own.gid)
}

// entryName checks a name in an archive and makes it a path below the root.
func entryName(name string) (string, error) {
	switch {
	case name == "" || hasNUL(name):
		return "", badRequest("the archive has an entry without a valid name")
	case len(name) > guestapi.MaxPath:
		return "", badRequest("the archive has a name of more than %d bytes", guestapi.MaxPath)
	case strings.HasPrefix(name, "/"):
		return "", badRequest("the archive's entry %q has an absolute name", name)
	case hasDotDot(name):
		return "", badRequest("the archive's entry %q has a .. segment", name)
	}
	return path.Clean(name), nil
}
