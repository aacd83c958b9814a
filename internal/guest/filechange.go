package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"syscall"
)

// maxPathBody bounds the bodies of mkdir and move: two paths, in the worst JSON escaping.
const maxPathBody = 64 << 10

// makeDirectory serves POST /files/mkdir; the path is in the query or in a JSON body {"path"}. A directory that exists
// is no error.
func (s *Server) makeDirectory(w http.ResponseWriter, r *http.Request) error {
	q, err := queryOf(r)
	if err != nil {
		return err
	}
	req := struct{ Path string }{q.Get("path")}
	if !q.Has("path") {
		if err := readJSON(w, r, maxPathBody, &req); err != nil {
			return err
		}
	}
	dir, err := cleanPath("path", req.Path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return conflict("%s exists and is not a directory", dir)
	}
	if err := makeDirs(dir, s.fileOwner()); err != nil {
		return fileError(err, dir, true)
	}
	return answerInfo(w, dir)
}

// moveFile serves POST /files/move. The destination's parents are made; a file there is replaced.
func (s *Server) moveFile(w http.ResponseWriter, r *http.Request) error {
	var req struct{ From, To string }
	if err := readJSON(w, r, maxPathBody, &req); err != nil {
		return err
	}
	from, err := cleanPath("from", req.From)
	if err != nil {
		return err
	}
	to, err := cleanPath("to", req.To)
	if err != nil {
		return err
	}
	if from == "/" || to == "/" {
		return badRequest("the root directory can't be moved or replaced")
	}
	if from, err = removable(from); err != nil {
		return err
	}
	info, err := os.Lstat(from)
	if err != nil {
		return fileError(err, from, false)
	}
	if target, err := os.Lstat(to); err == nil && target.IsDir() && !info.IsDir() {
		return isDirectory(to)
	}
	if err := makeDirs(path.Dir(to), s.fileOwner()); err != nil {
		return fileError(err, to, true)
	}
	if err := move(r.Context(), from, to); err != nil {
		return err
	}
	return answerInfo(w, to)
}

func move(ctx context.Context, from, to string) error {
	err := os.Rename(from, to)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EXDEV):
		return moveAcross(ctx, from, to)
	case errors.Is(err, syscall.EINVAL):
		return badRequest("%s can't be moved into itself", from)
	case errors.Is(err, syscall.ENOTDIR):
		return conflict("%s is not a directory", to)
	case errors.Is(err, syscall.ENOENT):
		return notFound(from)
	}
	return fileError(err, to, true)
}

// moveAcross moves between two file systems: it copies to a temporary name, renames, and only then removes the source.
func moveAcross(ctx context.Context, from, to string) error {
	tmp := path.Join(path.Dir(to), temporaryName())
	// Renamed by now if all went well; if not, it has to go even when the client is gone.
	defer func() { _ = removeTree(context.WithoutCancel(ctx), tmp) }()
	info, err := os.Lstat(path.Dir(from))
	if err != nil {
		return fileError(err, from, false)
	}
	if err := copyTree(from, tmp, device(info)); err != nil {
		return fileError(err, to, true)
	}
	if err := os.Rename(tmp, to); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			return conflict("%s is not a directory", to)
		}
		return fileError(err, to, true)
	}
	// Also when the client is gone: half a tree would be left in two places.
	return removeTree(context.WithoutCancel(ctx), from)
}

// copyTree copies a file, symlink or directory with owner, mode and, for files, time. It refuses directories that are
// not on the file system dev, since they could not be removed afterwards.
func copyTree(from, to string, dev uint64) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.IsDir() && device(info) != dev {
		return mountPoint(from)
	}
	if err := copyOne(from, to); err != nil || !info.IsDir() {
		return err
	}
	names, err := readNames(from, maxZipEntries)
	if errors.Is(err, errTooMany) {
		return tooLarge("%s has more than %d entries", from, maxZipEntries)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyTree(path.Join(from, name), path.Join(to, name), dev); err != nil {
			return err
		}
	}
	return nil
}

func copyOne(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return syscall.EINVAL
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		err = os.Mkdir(to, 0o700)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return errors.Join(os.Symlink(target, to), os.Lchown(to, int(st.Uid), int(st.Gid)))
	case mode.IsRegular():
		err = copyContent(from, to)
	default:
		return badRequest("%s is a special file and can't be moved to another file system", from)
	}
	if err == nil {
		err = os.Lchown(to, int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = os.Chmod(to, info.Mode())
	}
	if err == nil && !info.IsDir() {
		err = os.Chtimes(to, info.ModTime(), info.ModTime())
	}
	return err
}

func copyContent(from, to string) error {
	in, _, err := openRegular(from)
	if err != nil {
		return err
	}
	defer closeRead(in)
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// deleteFile serves DELETE /files. A symlink goes itself, not what it names.
func (s *Server) deleteFile(w http.ResponseWriter, r *http.Request) error {
	p, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	recursive := false
	if text := q.Get("recursive"); text != "" {
		if recursive, err = strconv.ParseBool(text); err != nil {
			return badRequest("recursive must be true or false")
		}
	}
	if p == "/" {
		return badRequest("the root directory can't be deleted")
	}
	if p, err = removable(p); err != nil {
		return err
	}
	if _, err := os.Lstat(p); err != nil {
		return fileError(err, p, false)
	}
	if recursive {
		err = removeTree(r.Context(), p)
	} else {
		err = os.Remove(p)
	}
	if errors.Is(err, syscall.EBUSY) {
		return mountPoint(p)
	}
	if errors.Is(err, syscall.ENOTEMPTY) && !recursive {
		return conflict("%s is not empty; recursive=true deletes what is in it", p)
	}
	if err != nil {
		return fileError(err, p, false)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
