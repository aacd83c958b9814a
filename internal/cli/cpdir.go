package cli

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/superserve/superserve/client"
)

// uploadDir sends a local directory as a tar archive that is made on the way.
func (a *App) uploadDir(ctx context.Context, c *client.Client, local string, to location) error {
	info, err := os.Stat(local)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory; copy it without -r", local)
	}
	if strings.HasSuffix(to.path, "/") {
		abs, err := filepath.Abs(local)
		if err != nil {
			return err
		}
		to.path = path.Join(to.path, filepath.Base(abs))
	}
	dp, err := c.Connect(ctx, to.id)
	if err != nil {
		return err
	}
	bar := a.progress(-1, "uploading")
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := a.packDir(io.MultiWriter(w, bar), local)
		w.CloseWithError(err)
		packed <- err
	}()
	written, err := dp.WriteTar(ctx, to.path, r)
	r.CloseWithError(context.Canceled) // the packing goes no further than the upload
	perr := <-packed
	if err == nil {
		err = perr
	}
	if err = errors.Join(err, bar.Close()); err != nil {
		return err
	}
	return a.copied(to.path, written.Size)
}

// packDir writes a directory's entries as a tar archive. Files belong to root there; what is no file, directory or
// symbolic link is left out and told.
func (a *App) packDir(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		switch info.Mode().Type() {
		case 0, fs.ModeDir:
		case fs.ModeSymlink:
			if link, err = os.Readlink(name); err != nil {
				return err
			}
		default:
			fmt.Fprintf(a.Err, "superserve: left out %s, which is no file, directory or link\n", printable(name))
			return nil
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		h.Name = filepath.ToSlash(rel)
		if info.IsDir() {
			h.Name += "/"
		}
		h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
		if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		return addFile(tw, name, h.Size)
	})
	return errors.Join(err, tw.Close())
}

// addFile packs the size bytes that a file had when its header was written; what it grew by since then is left out.
func addFile(w io.Writer, name string, size int64) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(w, io.LimitReader(f, size))
	if err == nil && n < size {
		err = fmt.Errorf("it became shorter meanwhile: %d of %d bytes are left", n, size)
	}
	if err != nil {
		return fmt.Errorf("packing %s: %w", name, err)
	}
	return nil
}

// downloadDir gets a directory as a zip archive, which says at its end whether it is complete, and then unpacks it.
func (a *App) downloadDir(ctx context.Context, c *client.Client, from location, local string) error {
	dp, err := c.Connect(ctx, from.id)
	if err != nil {
		return err
	}
	body, err := dp.ReadDirZip(ctx, from.path)
	if err != nil {
		return err
	}
	defer body.Close()
	f, err := os.CreateTemp("", "superserve-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // nothing is lost
	defer f.Close()
	bar := a.progress(-1, "downloading")
	size, err := io.Copy(io.MultiWriter(f, bar), body)
	if err = errors.Join(err, bar.Close()); err != nil {
		return err
	}
	archive, err := zip.NewReader(f, size)
	if err != nil {
		return fmt.Errorf("the archive that came is not complete: %w", err)
	}
	target := localTarget(local, from)
	n, err := unpackZip(ctx, archive, target)
	if err != nil {
		return err
	}
	return a.copied(target, n)
}

// unpackZip writes an archive's entries, without their first path element, into a directory, and nothing outside of it
// whatever their names and the links there.
func unpackZip(ctx context.Context, archive *zip.Reader, dir string) (size int64, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	for _, entry := range archive.File {
		if ctx.Err() != nil {
			return size, ctx.Err()
		}
		_, name, _ := strings.Cut(entry.Name, "/")
		if name == "" {
			continue
		}
		n, err := unpackEntry(root, entry, name)
		if err != nil {
			return size, fmt.Errorf("unpacking %s: %w", printable(entry.Name), err)
		}
		size += n
	}
	return size, nil
}

func unpackEntry(root *os.Root, entry *zip.File, name string) (int64, error) {
	if strings.HasSuffix(name, "/") {
		return 0, root.MkdirAll(strings.TrimRight(name, "/"), 0o755)
	}
	if !entry.Mode().IsRegular() {
		return 0, nil
	}
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return 0, err
		}
	}
	r, err := entry.Open()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, entry.Mode().Perm()|0o200)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, r)
	return n, errors.Join(err, f.Close())
}
