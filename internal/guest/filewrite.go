package guest

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	newFileMode = 0o644
	newDirMode  = 0o755
	copyBuffer  = 128 << 10
	// smallBody is how much of a refused upload is taken before the answer.
	smallBody = 1 << 20
	// refusalTime is how long the rest of a refused upload is taken.
	refusalTime = 5 * time.Second
)

// writeFile serves POST /files.
func (s *Server) writeFile(w http.ResponseWriter, r *http.Request) error {
	p, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	var size int64
	switch q.Get("format") {
	case "":
		size, err = upload(p, r.Body, s.fileOwner())
	case "tar":
		size, err = unpackTar(p, r.Body, s.fileOwner())
	default:
		return badRequest("format must be tar or absent")
	}
	if err != nil {
		refuseUpload(w, r, err)
		return nil
	}
	writeJSON(w, http.StatusOK, guestapi.FileWritten{Path: p, Size: size})
	return nil
}

// refuseUpload answers once it has taken the rest of a small body, so that the answer comes after the request as it
// should: what stands in between may cut off one that comes before. A large body is answered while it may still be
// coming, and then taken for a while: closing the connection under a client that is still sending would often destroy
// the answer before it is read.
func refuseUpload(w http.ResponseWriter, r *http.Request, err error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(refusalTime))
	if _, rest := io.CopyN(io.Discard, r.Body, smallBody); rest == nil { // there is more
		_ = rc.EnableFullDuplex() // else Go reads much of the body before it sends the answer
	}
	writeError(w, err)
	_ = rc.Flush()
	_, _ = io.Copy(io.Discard, r.Body)
}

// body remembers an error of reading the client's bytes, so that it can be told from one of writing them.
type body struct {
	r   io.Reader
	err error
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

var errBodyCut = badRequest("the body ended early; nothing was changed")

// upload writes content to a temporary file next to p and renames it, so that whoever reads p finds the old or the new
// file, and a broken upload leaves the old one. A symlink is followed to the file it names.
func upload(p string, content io.Reader, own owner) (int64, error) {
	if real, err := filepath.EvalSymlinks(p); err == nil {
		p = real
	}
	if p == "/" {
		return 0, isDirectory(p)
	}
	mode := fs.FileMode(newFileMode)
	switch old, err := os.Stat(p); {
	case err == nil:
		if err := checkRegular(old, p); err != nil {
			return 0, err
		}
		mode = old.Mode()
		if st, ok := old.Sys().(*syscall.Stat_t); ok {
			own = owner{uid: int(st.Uid), gid: int(st.Gid)}
		}
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDirs(path.Dir(p), own); err != nil {
			return 0, fileError(err, p, true)
		}
	default:
		return 0, fileError(err, p, true)
	}
	return replaceWith(p, content, mode, own)
}

func replaceWith(p string, content io.Reader, mode fs.FileMode, own owner) (int64, error) {
	tmp := path.Join(path.Dir(p), temporaryName())
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fileError(err, p, true)
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(tmp) // renamed by now if all went well
	}()
	b := &body{r: content}
	size, err := io.CopyBuffer(struct{ io.Writer }{file}, b, make([]byte, copyBuffer))
	if b.err != nil {
		return 0, errBodyCut
	}
	// The owner first: a change of owner takes setuid bits away.
	if err == nil && own.uid|own.gid != 0 {
		err = file.Chown(own.uid, own.gid)
	}
	if err == nil {
		err = file.Chmod(mode)
	}
	if err == nil {
		err = file.Close()
	}
	if err == nil {
		err = os.Rename(tmp, p)
	}
	if err != nil {
		return 0, fileError(err, p, true)
	}
	return size, nil
}

func temporaryName() string { return ".boxd-" + rand.Text() }

// makeDirs makes dir and the parents it lacks, giving those it made to own.
func makeDirs(dir string, own owner) error {
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeDirs(path.Dir(dir), own); err != nil {
		return err
	}
	switch err := os.Mkdir(dir, newDirMode); {
	case err == nil:
		return own.give(dir)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	// Made by someone else in the meantime, or a symlink to nowhere.
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return syscall.ENOTDIR
	}
	return nil
}
