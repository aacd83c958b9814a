package unpack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// block is the smallest hole that is made in a file.
const block = 4096

// directory makes a directory, or gives the one that is there the attributes of the entry.
func (u *Unpacker) directory(h *tar.Header, real string) error {
	d, err := u.tree.at(path.Dir(real))
	if err != nil {
		return err
	}
	base := path.Base(real)
	err = unix.Mkdirat(d.fd, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return u.describe(h, real)
		}
		if err := u.tree.remove(d, base); err != nil {
			return err
		}
		err = unix.Mkdirat(d.fd, base, 0o700)
	}
	if err != nil {
		return &fs.PathError{Op: "mkdirat", Path: real, Err: err}
	}
	return u.describe(h, real)
}

// describe gives a directory the attributes of an entry.
func (u *Unpacker) describe(h *tar.Header, real string) error {
	d, err := u.tree.at(real)
	if err != nil {
		return err
	}
	if err := clearXattrs(d.fd); err != nil {
		return err
	}
	d.mtime = modTime(h.ModTime)
	return u.attributes(h, d.fd)
}

// attributes sets owner, mode and extended attributes, in this order: a new owner takes setuid and capabilities away.
func (u *Unpacker) attributes(h *tar.Header, fd int) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil {
		return err
	}
	attrs, err := xattrs(h.Name, h.PAXRecords, u.limits.XattrBytes)
	if err != nil {
		return err
	}
	return setXattrs(h.Name, fd, attrs)
}

// owner checks the numbers: the kernel takes the highest for "leave it as it is".
func owner(h *tar.Header) (uid, gid int, err error) {
	const most = 1<<32 - 2
	if h.Uid < 0 || h.Uid > most || h.Gid < 0 || h.Gid > most {
		return 0, 0, unsafe(h.Name, "its owner %d:%d is not between 0 and %d", h.Uid, h.Gid, most)
	}
	return h.Uid, h.Gid, nil
}

// modTime keeps a time within what file systems can hold: 1970 to 2242.
func modTime(t time.Time) unix.Timespec {
	sec := t.Unix()
	if sec < 0 || sec >= 1<<33 {
		return unix.Timespec{Sec: min(max(sec, 0), 1<<33-1)}
	}
	return unix.Timespec{Sec: sec, Nsec: int64(t.Nanosecond())}
}

// make calls create for the place of a new entry, and once more after removing what is there already.
func (u *Unpacker) make(real string, create func(dirfd int, base string) error) error {
	d, err := u.tree.at(path.Dir(real))
	if err != nil {
		return err
	}
	base := path.Base(real)
	if err = create(d.fd, base); errors.Is(err, unix.EEXIST) {
		if err := u.tree.remove(d, base); err != nil {
			return err
		}
		err = create(d.fd, base)
	}
	return err
}

// file writes a regular file.
func (u *Unpacker) file(h *tar.Header, content io.Reader, real string) error {
	if h.Size < 0 || h.Size > u.limits.Bytes-u.files {
		return tooLarge(h.Name, "its %d bytes and those of the files before it are more than %d", h.Size, u.limits.Bytes)
	}
	u.files += h.Size
	var fd int
	err := u.make(real, func(dirfd int, base string) (err error) {
		fd, err = unix.Openat(dirfd, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = u.write(fd, content, h.Size)
	if err == nil {
		err = u.attributes(h, fd)
	}
	if err == nil {
		t := modTime(h.ModTime)
		err = unix.UtimesNanoAt(fd, "", []unix.Timespec{t, t}, unix.AT_EMPTY_PATH)
	}
	return errors.Join(err, unix.Close(fd))
}

// write copies the content, leaving holes for blocks of zeros.
func (u *Unpacker) write(fd int, content io.Reader, size int64) error {
	at, hole := int64(0), false
	for at < size {
		n, err := io.ReadFull(content, u.buf[:min(int64(len(u.buf)), size-at)])
		if err != nil {
			return err
		}
		for from := 0; from < n; {
			to, zero := run(u.buf[from:n])
			if !zero {
				if err := pwrite(fd, u.buf[from:from+to], at+int64(from)); err != nil {
					return err
				}
			}
			hole = zero
			from += to
		}
		at += int64(n)
	}
	if hole {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

// run returns how many bytes at the beginning of p are all blocks of zeros, or all blocks of something else.
func run(p []byte) (n int, zero bool) {
	for n < len(p) {
		part := p[n:min(n+block, len(p))]
		z := len(part) == block && isZero(part)
		if n > 0 && z != zero {
			break
		}
		zero = z
		n += len(part)
	}
	return n, zero
}

// isZero says whether a block holds only zeros.
func isZero(p []byte) bool { return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }

func pwrite(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// symlink makes a symbolic link. Its target is not looked at: it means something only to who follows it.
func (u *Unpacker) symlink(h *tar.Header, real string) error {
	if h.Linkname == "" || len(h.Linkname) > u.limits.PathBytes {
		return unsafe(h.Name, "its target is empty or has more than %d bytes", u.limits.PathBytes)
	}
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	return u.make(real, func(dirfd int, base string) error {
		if err := unix.Symlinkat(h.Linkname, dirfd, base); err != nil {
			return err
		}
		return errors.Join(unix.Fchownat(dirfd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW), setTime(dirfd, base, h))
	})
}

// node makes a device or a named pipe.
func (u *Unpacker) node(h *tar.Header, real string) error {
	uid, gid, err := owner(h)
	if err != nil {
		return err
	}
	if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
		return unsafe(h.Name, "its device number %d:%d does not exist", h.Devmajor, h.Devminor)
	}
	kind, device := uint32(unix.S_IFIFO), uint64(0)
	switch h.Typeflag {
	case tar.TypeChar:
		kind, device = unix.S_IFCHR, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	case tar.TypeBlock:
		kind, device = unix.S_IFBLK, unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	return u.make(real, func(dirfd int, base string) error {
		if err := unix.Mknodat(dirfd, base, kind|0o600, int(device)); err != nil {
			return err
		}
		// By name, since a device must not be opened; nobody else writes here.
		return errors.Join(
			unix.Fchownat(dirfd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW),
			unix.Fchmodat(dirfd, base, uint32(h.Mode&0o7777), 0),
			setTime(dirfd, base, h))
	})
}

func setTime(dirfd int, base string, h *tar.Header) error {
	t := modTime(h.ModTime)
	return unix.UtimesNanoAt(dirfd, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// hardLink gives a file another name. The last part of the target is not followed.
func (u *Unpacker) hardLink(h *tar.Header, real string) error {
	target, err := u.clean(h.Linkname)
	if err != nil {
		return unsafe(h.Name, "as a hard link, its target %s is not below the root", Quote(h.Linkname))
	}
	targetDir, err := u.tree.resolve(path.Dir(target), false)
	if errors.Is(err, errNotThere) {
		return unsafe(h.Name, "it is a hard link to %s, which does not exist", Quote(h.Linkname))
	}
	if err != nil {
		return err
	}
	from, err := u.tree.at(targetDir)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(from.fd, path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
		return unsafe(h.Name, "it is a hard link to %s, which does not exist", Quote(h.Linkname))
	} else if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unsafe(h.Name, "it is a hard link to the directory %s", Quote(h.Linkname))
	}
	switch there := path.Join(targetDir, path.Base(target)); {
	case there == real:
		return nil // a name for itself
	case strings.HasPrefix(there, real+"/"):
		return unsafe(h.Name, "it is a hard link that would replace the directory of its target %s", Quote(h.Linkname))
	}
	return u.make(real, func(dirfd int, base string) error {
		return unix.Linkat(from.fd, path.Base(target), dirfd, base, 0)
	})
}
