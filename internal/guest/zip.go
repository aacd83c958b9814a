package guest

import (
	"archive/zip"
	"bufio"
	"compress/flate"
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// maxZipEntries bounds a zip: its directory is held in memory until the end.
const maxZipEntries = 100000

// sendZip streams a directory as a zip whose entries begin with the directory's name. Symlinks, special files and the
// kernel's own file systems are skipped.
func sendZip(w http.ResponseWriter, r *http.Request, dir string) error {
	count := walker{max: maxZipEntries, seen: skipPseudo}
	if err := count.walk(dir, maxPathDepth); errors.Is(err, errTooMany) {
		return tooLarge("%s has more than %d entries", dir, maxZipEntries)
	} else if err != nil {
		return fileError(err, dir, false)
	}
	base := path.Base(dir)
	if base == "/" {
		base = "root"
	}
	h := w.Header()
	h.Set("Content-Type", "application/zip")
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": base + ".zip"}))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if err := writeZip(w, dir, base); err != nil {
		// Too late for an answer: a cut connection is the only honest sign.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// maxPathDepth is more than a path of guestapi.MaxPath bytes can have.
const maxPathDepth = 2049

func writeZip(w io.Writer, dir, base string) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	archive := zip.NewWriter(buffered)
	archive.RegisterCompressor(zip.Deflate, reusedDeflate())
	buf := make([]byte, 64<<10)
	if _, err := archive.Create(base + "/"); err != nil {
		return err
	}
	walk := walker{max: maxZipEntries, seen: func(p string, info fs.FileInfo) error {
		if err := skipPseudo(p, info); err != nil {
			return err
		}
		name := path.Join(base, strings.TrimPrefix(p, dir))
		return addToZip(archive, p, name, info, buf)
	}}
	if err := walk.walk(dir, maxPathDepth); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

func addToZip(archive *zip.Writer, p, name string, info fs.FileInfo, buf []byte) error {
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil
	}
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: info.ModTime()}
	header.SetMode(info.Mode())
	if info.IsDir() {
		header.Name += "/"
		header.Method = zip.Store
		_, err := archive.CreateHeader(header)
		return err
	}
	file, _, err := openRegular(p)
	if err != nil { // it vanished or was exchanged since it was listed
		return nil
	}
	defer closeRead(file)
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return err
	}
	// Not ReadFrom: that would take a buffer of its own for each file.
	_, err = io.CopyBuffer(struct{ io.Writer }{entry}, struct{ io.Reader }{file}, buf)
	return err
}

// skipPseudo keeps /proc and its like out, whose files have no end.
func skipPseudo(p string, info fs.FileInfo) error {
	if info.IsDir() && isPseudo(p) {
		return fs.SkipDir
	}
	return nil
}

// reusedDeflate is one fast compressor for all entries, which follow one another.
func reusedDeflate() zip.Compressor {
	var w *flate.Writer
	return func(out io.Writer) (io.WriteCloser, error) {
		if w == nil {
			var err error
			w, err = flate.NewWriter(out, flate.BestSpeed)
			return w, err
		}
		w.Reset(out)
		return w, nil
	}
}
