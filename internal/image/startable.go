package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/superserve/superserve/internal/image/unpack"
)

// maxAccounts is the largest /etc/passwd or /etc/group that is looked at, in bytes.
const maxAccounts = 4 << 20

// makeStartable adds to the root file system of an image from elsewhere what every sandbox needs: the places that a
// runtime mounts on, accounts, the names that the network takes, the operator's CAs, the working directory. Nothing of
// the image is run for it, so an image without a shell will do; all paths are resolved inside the tree. What the image
// has of its own stays, such as directories that it keeps in /tmp and /run.
func (s *Store) makeStartable(ctx context.Context, dir string, config ImageConfig) error {
	fail := func(err error) error { return &BuildError{Step: stepFix, Err: err} }
	root, err := unpack.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	a := &additions{root: root, taken: map[string]bool{}}
	a.w = tar.NewWriter(&a.buf)
	a.directories(config.Workdir)
	a.accounts()
	for _, f := range rootFiles() {
		if f.onlyIf == "" || a.exists(f.onlyIf) {
			a.file(f.name, f.content, f.mode)
		}
	}
	a.trust(s.cas)
	if err := errors.Join(a.err, a.w.Close(), clearDevices(dir, root)); err != nil {
		return fail(err)
	}
	u, err := unpack.New(dir, unpack.Limits{})
	if err != nil {
		return fail(err)
	}
	if err := errors.Join(u.Archive(ctx, &a.buf), u.Close()); err != nil {
		return cancelled(ctx, layerError(stepFix, err)) // links in the image can lead what is added astray
	}
	return nil
}

// clearDevices takes away what would be hidden by the runtime's own /dev, and the mark of another container runtime.
func clearDevices(dir string, in *unpack.Root) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if in.IsRealDir("dev") {
		if err := emptyDir(root, "dev"); err != nil {
			return err
		}
	}
	return root.RemoveAll(".dockerenv")
}

// additions is a small archive that is unpacked over the image.
type additions struct {
	root *unpack.Root
	buf  bytes.Buffer
	w    *tar.Writer
	err  error
	// taken are the links already in the archive.
	taken map[string]bool
}

func (a *additions) exists(name string) bool {
	_, err := a.root.Stat(name)
	return err == nil
}

func (a *additions) file(name, content string, mode fs.FileMode) {
	a.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: int64(mode.Perm())})
	_, err := a.w.Write([]byte(content))
	a.err = errors.Join(a.err, err)
}

func (a *additions) dir(name string, mode fs.FileMode) {
	bits := int64(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	a.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: bits})
}

func (a *additions) link(name, target string) {
	a.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
}

func (a *additions) add(h *tar.Header) {
	h.Format = tar.FormatPAX
	a.err = errors.Join(a.err, a.w.WriteHeader(h))
}

// directories adds those that are missing. Where something is mounted, a link will not do.
func (a *additions) directories(workdir string) {
	for _, d := range rootDirs() {
		there := a.root.IsDir(d.name)
		if d.mountPoint {
			there = a.root.IsRealDir(d.name) && d.name != "dev" && !strings.HasPrefix(d.name, "dev/") // those are emptied
		}
		if !there {
			a.dir(d.name, d.mode)
		}
	}
	if !a.root.IsDir("root") {
		a.dir("root", 0o700)
	}
	if name := strings.TrimPrefix(workdir, "/"); name != "" && !a.root.IsDir(name) {
		a.dir(name, 0o755)
	}
}

// accounts makes sure that there is a root user and group.
func (a *additions) accounts() {
	shell := "/sbin/nologin"
	if a.exists("bin/sh") {
		shell = "/bin/sh"
	}
	a.account("etc/passwd", "root:x:0:0:root:/root:"+shell+"\n", "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n")
	a.account("etc/group", "root:x:0:\n", "nogroup:x:65534:\n")
}

func (a *additions) account(name, line, others string) {
	data, real, err := a.root.ReadFile(name, maxAccounts)
	if err != nil {
		a.file(name, line+others, 0o644)
		return
	}
	for l := range strings.SplitSeq(string(data), "\n") {
		fields := strings.SplitN(l, ":", 4)
		if len(fields) > 2 && (fields[0] == "root" || fields[2] == "0") {
			return
		}
	}
	a.file(real, line+string(data), 0o644)
}
