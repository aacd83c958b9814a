package guest

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxExportEntries bounds how many files an export has; above it breaks off.
	maxExportEntries = 4 << 20
	// maxExportLinks bounds how many files with several names an export remembers.
	maxExportLinks = 1 << 20
	// maxXattrs bounds the names and each value of a file's extended attributes: the kernel's own limits.
	maxXattrs = 64 << 10
	// xattrRecord is the prefix that tar programs agree on for extended attributes.
	xattrRecord = "SCHILY.xattr."
)

// export serves guestapi.ExportPath. Its memory does not grow with the tree but for the names of one directory on each
// level and of files with several names.
func (s *Server) export(w http.ResponseWriter, r *http.Request) error {
	dir, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	if !isDir(dir) {
		return badRequest("path %s is not an existing directory", dir)
	}
	mounts, err := mountPoints()
	if err != nil {
		return fmt.Errorf("reading the mount table: %w", err)
	}
	var writable *uint64
	if q.Get(guestapi.KeptParam) != "" {
		if writable, err = writableDevice(dir); err != nil {
			return fileError(err, dir, true)
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	out := bufio.NewWriterSize(w, 256<<10)
	x := &exporter{
		root: dir, mounts: mounts, writable: writable, tar: tar.NewWriter(out), links: map[inode]string{},
		buf: make([]byte, copyBuffer),
	}
	err = x.tree(dir)
	if err == nil {
		err = errors.Join(x.tar.Close(), out.Flush())
	}
	if err != nil {
		s.log.Warn("exporting failed", "path", dir, "err", err)
		panic(http.ErrAbortHandler) // the answer has begun: only breaking it off tells
	}
	return nil
}

// inode names a file whatever its path.
type inode struct{ dev, ino uint64 }

// exporter is one export.
type exporter struct {
	root   string
	mounts map[string]bool
	// writable is the device of files that were changed or made; one of another is the image's. nil: every file is sent.
	writable *uint64
	tar      *tar.Writer
	links    map[inode]string // the first name of files with several
	entries  int
	buf      []byte
}

// writableDevice is the device that a file made below dir has.
func writableDevice(dir string) (*uint64, error) {
	probe, err := os.CreateTemp(dir, ".boxd-")
	if err != nil {
		return nil, err
	}
	device, err := deviceOf(probe)
	return &device, errors.Join(err, probe.Close(), os.Remove(probe.Name()))
}

// tree writes dir and what is below it. What vanishes meanwhile is left out.
func (x *exporter) tree(dir string) error {
	isDir, err := x.entry(dir)
	if err != nil || !isDir || x.mounts[dir] && dir != x.root {
		return ignoreVanished(err)
	}
	names, err := readNames(dir, maxExportEntries-x.entries)
	if err != nil {
		return ignoreVanished(err)
	}
	for _, name := range names {
		if err := x.tree(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func ignoreVanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// entry writes one file with all that is known of it. A file that something is mounted on is left out.
func (x *exporter) entry(p string) (isDir bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return false, err
	}
	isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
	if x.mounts[p] && !isDir {
		return false, nil
	}
	return isDir, x.write(p, &st)
}

func (x *exporter) write(p string, st *unix.Stat_t) error {
	if x.entries++; x.entries > maxExportEntries {
		return errTooMany
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Name: x.name(p), Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	default:
		return nil // a socket means nothing without its process
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	if again, err := x.again(h, st); again || err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg && x.writable != nil && st.Dev != *x.writable {
		h.Size, h.PAXRecords = 0, map[string]string{guestapi.KeptRecord: "1"}
		return x.tar.WriteHeader(h)
	}
	if err := x.xattrs(h, p); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeReg {
		return x.content(h, p)
	}
	return x.tar.WriteHeader(h)
}

// name is a path's name in the archive.
func (x *exporter) name(p string) string {
	if p == x.root {
		return "."
	}
	return strings.TrimPrefix(strings.TrimPrefix(p, x.root), "/")
}

// again writes a file that was there before under another name as a link to that.
func (x *exporter) again(h *tar.Header, st *unix.Stat_t) (bool, error) {
	if st.Nlink < 2 || h.Typeflag == tar.TypeDir {
		return false, nil
	}
	id := inode{st.Dev, st.Ino}
	if first, ok := x.links[id]; ok {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		return true, x.tar.WriteHeader(h)
	}
	if len(x.links) >= maxExportLinks {
		return false, errTooMany
	}
	x.links[id] = h.Name
	return false, nil
}

// xattrs adds the extended attributes. A file system without any is no error, nor is one that vanishes.
func (x *exporter) xattrs(h *tar.Header, p string) error {
	buf := x.buf[:maxXattrs]
	n, err := unix.Llistxattr(p, buf)
	if err != nil || n == 0 {
		return ignoreNoXattrs(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.Contains(name, "=") || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		n, err := unix.Lgetxattr(p, name, buf)
		if err != nil {
			if err := ignoreNoXattrs(err); err != nil {
				return err
			}
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+name] = string(buf[:n])
	}
	return nil
}

func ignoreNoXattrs(err error) error {
	for _, none := range []error{unix.ENOTSUP, unix.ENODATA, unix.ENOSYS, unix.EPERM, unix.EACCES} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}

// content writes a regular file, as many bytes as the header says whatever happens to the file meanwhile.
func (x *exporter) content(h *tar.Header, p string) error {
	file, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer closeRead(file)
	if err := x.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{x.tar}, io.LimitReader(file, h.Size), x.buf)
	if err != nil {
		return err
	}
	return x.zeros(h.Size - n)
}

// zeros fills up a file that has become shorter.
func (x *exporter) zeros(n int64) error {
	clear(x.buf)
	for n > 0 {
		m, err := x.tar.Write(x.buf[:min(n, int64(len(x.buf)))])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// mountPoints are the places where something is mounted.
func mountPoints() (map[string]bool, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer closeRead(table)
	points := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(table, maxUserFile))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 4 {
			points[unescapeMount(f[4])] = true
		}
	}
	return points, lines.Err()
}

// unescapeMount undoes the octal escapes of the mount table.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
