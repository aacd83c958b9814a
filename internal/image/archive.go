package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

const (
	// maxArchiveFiles is how many files an archive of an image may have: a few for each layer.
	maxArchiveFiles = 100_000
	// maxArchiveName is how long a name in one may be, and a link's target, in bytes: all of them are kept in memory.
	maxArchiveName = 512
	// maxArchiveLinks is how many links in a row are followed in one.
	maxArchiveLinks = 5
)

// archive is the files of a tar on disk, which stays where it is: each is a piece of it.
type archive struct {
	file  *os.File
	files map[string]piece
}

// piece is a file in an archive, or a link to another.
type piece struct {
	offset, size int64
	link         string
}

// openArchive lists what is in a tar.
func openArchive(f *os.File) (*archive, error) {
	a := &archive{file: f, files: map[string]piece{}}
	r := tar.NewReader(f) // seeks over the contents, since f can
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, &Error{Code: CodePullFailed, Detail: "the archive is not a tar", Err: err}
		}
		if len(a.files) == maxArchiveFiles {
			return nil, &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the archive has more than %d files", maxArchiveFiles)}
		}
		if max(len(h.Name), len(h.Linkname)) > maxArchiveName {
			return nil, &Error{Code: CodeTooLarge, Detail: fmt.Sprintf("the archive has a name with more than %d bytes", maxArchiveName)}
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, &BuildError{Step: stepUnpack, Err: err}
			}
			if h.PAXRecords["GNU.sparse.major"] == "" { // nobody writes archives of images so
				a.files[name] = piece{offset: at, size: h.Size}
			}
		case tar.TypeSymlink: // docker save, for layers that several images share
			a.files[name] = piece{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.files[name] = piece{link: path.Clean(h.Linkname)}
		}
	}
}

// open gives a piece of the archive.
func (a *archive) open(name string) (io.ReadCloser, error) {
	name = path.Clean(name)
	for range maxArchiveLinks {
		p, ok := a.files[name]
		if !ok {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if p.link == "" {
			return io.NopCloser(io.NewSectionReader(a.file, p.offset, p.size)), nil
		}
		name = p.link
	}
	return nil, fmt.Errorf("%s: links to links: %w", name, fs.ErrNotExist)
}
