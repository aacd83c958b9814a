package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"

	"github.com/superserve/superserve/internal/guestapi"
)

// maxListed is the largest number of entries in one answer of /files/list; a longer list is 413.
const maxListed = 10000

// listFiles serves GET /files/list. A symlink is followed when path itself is one, and nowhere below.
func (s *Server) listFiles(w http.ResponseWriter, r *http.Request) error {
	dir, q, err := pathQuery(r)
	if err != nil {
		return err
	}
	depth := 1
	if text := q.Get("depth"); text != "" {
		if depth, err = strconv.Atoi(text); err != nil || depth < 1 {
			return badRequest("depth must be a whole number from 1")
		}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fileError(err, dir, false)
	}
	if !info.IsDir() {
		return badRequest("path: %s is not a directory", dir)
	}
	list := guestapi.FileList{Entries: []guestapi.FileInfo{}}
	walk := walker{max: maxListed, seen: func(p string, info fs.FileInfo) error {
		list.Entries = append(list.Entries, fileInfo(p, info))
		return nil
	}}
	err = walk.walk(dir, depth)
	if errors.Is(err, errTooMany) {
		return tooLarge("%s has more than %d entries at this depth", dir, maxListed)
	}
	if err != nil {
		return fileError(err, dir, false)
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// statFile serves GET /files/stat. A symlink is described, not followed.
func (s *Server) statFile(w http.ResponseWriter, r *http.Request) error {
	p, _, err := pathQuery(r)
	if err != nil {
		return err
	}
	return answerInfo(w, p)
}

// answerInfo answers with what p now is.
func answerInfo(w http.ResponseWriter, p string) error {
	info, err := os.Lstat(p)
	if err != nil {
		return fileError(err, p, false)
	}
	writeJSON(w, http.StatusOK, fileInfo(p, info))
	return nil
}

func fileInfo(p string, info fs.FileInfo) guestapi.FileInfo {
	return guestapi.FileInfo{
		Name: path.Base(p), Path: p, Type: fileType(info.Mode()), Size: info.Size(),
		Mode: fmt.Sprintf("%04o", unixMode(info.Mode())), ModifiedAt: info.ModTime().UTC().Format(timestampLayout),
	}
}

func fileType(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return "file"
	case mode.IsDir():
		return "directory"
	case mode&fs.ModeSymlink != 0:
		return "symlink"
	}
	return "other"
}

// unixMode is the permission bits with setuid, setgid and sticky where Unix has them.
func unixMode(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	if mode&fs.ModeSetuid != 0 {
		bits |= 0o4000
	}
	if mode&fs.ModeSetgid != 0 {
		bits |= 0o2000
	}
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	return bits
}
