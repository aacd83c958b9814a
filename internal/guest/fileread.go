package guest

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxPseudo is the largest file of a kernel file system that is served: its size is known only by reading it.
const maxPseudo = 4 << 20

// readFile serves GET and HEAD /files.
func (s *Server) readFile(w http.ResponseWriter, r *http.Request) error {
	p, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	format := q.Get("format")
	if format != "" && format != "zip" {
		return badRequest("format must be zip or absent")
	}
	info, err := os.Stat(p)
	if err != nil {
		return fileError(err, p, false)
	}
	if format == "zip" {
		if !info.IsDir() {
			return badRequest("format=zip needs a directory, and %s is none", p)
		}
		return sendZip(w, r, p)
	}
	file, info, err := openRegular(p)
	if err != nil {
		return err
	}
	defer closeRead(file)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if info.Size() == 0 || isPseudo(p) {
		return sendPseudo(w, r, file, p)
	}
	return sendRegular(w, r, file, info)
}

// openRegular opens a file for reading, through symlinks. Nothing but a regular file is opened: opening a FIFO would
// wait, and opening a device can have effects.
func openRegular(p string) (*os.File, os.FileInfo, error) {
	info, err := os.Stat(p)
	if err == nil {
		err = checkRegular(info, p)
	}
	if err != nil {
		return nil, nil, fileError(err, p, false)
	}
	file, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fileError(err, p, false)
	}
	if info, err = file.Stat(); err == nil {
		err = checkRegular(info, p) // it may have been exchanged
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, fileError(err, p, false)
	}
	return file, info, nil
}

func checkRegular(info os.FileInfo, p string) error {
	if info.IsDir() {
		return isDirectory(p)
	}
	if !info.Mode().IsRegular() {
		return badRequest("%s is not a regular file", p)
	}
	return nil
}

// isPseudo says whether p lives on a file system whose files have no true size.
func isPseudo(p string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(p, &st); err != nil {
		return false
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC:
		return true
	}
	return false
}

// sendPseudo serves a file that says it is empty, or whose size can't be believed, by reading it first.
func sendPseudo(w http.ResponseWriter, r *http.Request, file *os.File, p string) error {
	content, err := io.ReadAll(io.LimitReader(file, maxPseudo+1))
	if err != nil {
		return fileError(err, p, false)
	}
	if len(content) > maxPseudo {
		return tooLarge("%s has no size of its own and is longer than %d bytes", p, maxPseudo)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(content)
	}
	return nil
}

// sendRegular serves a file, or the one range of it that was asked for.
func sendRegular(w http.ResponseWriter, r *http.Request, file *os.File, info os.FileInfo) error {
	size := info.Size()
	h := w.Header()
	modified := info.ModTime().UTC().Format(http.TimeFormat)
	h.Set("Last-Modified", modified)
	h.Set("Accept-Ranges", "bytes")
	rangeHeader := r.Header.Get("Range")
	if condition := r.Header.Get("If-Range"); condition != "" && condition != modified {
		rangeHeader = ""
	}
	part, err := parseRange(rangeHeader, size)
	if errors.Is(err, errUnsatisfiable) {
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		return newError(http.StatusRequestedRangeNotSatisfiable, codeBadRequest,
			"the range starts beyond the file's %d bytes", size)
	}
	status := http.StatusOK
	if part.partial {
		status = http.StatusPartialContent
		h.Set("Content-Range", part.contentRange(size))
		if _, err := file.Seek(part.start, io.SeekStart); err != nil {
			return fileError(err, file.Name(), false)
		}
	}
	h.Set("Content-Length", strconv.FormatInt(part.length, 10))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// A file that shrinks meanwhile falls short of the length, and the server then cuts the connection.
		_, _ = io.CopyN(w, file, part.length)
	}
	return nil
}
