package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// FileReader is a download; it must be closed. Read fails when the connection breaks before Size bytes have come.
type FileReader struct {
	io.ReadCloser
	// Size is the file's size in bytes, or -1 when the server did not say (zip archives).
	Size int64
}

// ReadFile downloads a file as a stream.
func (d *DataPlane) ReadFile(ctx context.Context, path string) (*FileReader, error) {
	return d.read(ctx, url.Values{"path": {path}})
}

// ReadDirZip downloads a directory as a zip archive, its entries prefixed with the directory's base name.
func (d *DataPlane) ReadDirZip(ctx context.Context, path string) (*FileReader, error) {
	return d.read(ctx, url.Values{"path": {path}, "format": {"zip"}})
}

func (d *DataPlane) read(ctx context.Context, q url.Values) (*FileReader, error) {
	r := d.call(http.MethodGet, "/files")
	r.query = q
	res, _, err := d.client.do(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", q.Get("path"), err)
	}
	return &FileReader{ReadCloser: res.Body, Size: res.ContentLength}, nil
}

// WriteFile uploads a file as a stream, making its parents; an upload that fails leaves the old file. size is how many
// bytes content has, -1 when unknown. When ctx ends or the server refuses while a Read of content waits, WriteFile returns
// and that Read ends by itself; what it brings is lost. The same holds for WriteTar.
func (d *DataPlane) WriteFile(ctx context.Context, path string, content io.Reader, size int64) (*FileWritten, error) {
	return d.write(ctx, url.Values{"path": {path}}, "application/octet-stream", content, size)
}

// WriteTar unpacks a tar archive into a directory.
func (d *DataPlane) WriteTar(ctx context.Context, dir string, archive io.Reader) (*FileWritten, error) {
	return d.write(ctx, url.Values{"path": {dir}, "format": {"tar"}}, "application/x-tar", archive, -1)
}

func (d *DataPlane) write(ctx context.Context, q url.Values, contentType string, body io.Reader, size int64) (*FileWritten, error) {
	r := d.call(http.MethodPost, "/files")
	r.query = q
	done, err := r.send(ctx, body, size)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", q.Get("path"), err)
	}
	defer done()
	r.header.Set("Content-Type", contentType)
	var out FileWritten
	if _, err := d.client.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("writing %s: %w", q.Get("path"), err)
	}
	return &out, nil
}

// ListFiles lists a directory, depth levels deep (1: only its own entries).
func (d *DataPlane) ListFiles(ctx context.Context, path string, depth int) ([]FileInfo, error) {
	r := d.call(http.MethodGet, "/files/list")
	r.query = url.Values{"path": {path}, "depth": {strconv.Itoa(depth)}}
	var out struct{ Entries []FileInfo }
	if _, err := d.client.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("listing %s: %w", path, err)
	}
	return out.Entries, nil
}

// Stat describes one file; it does not follow a symlink.
func (d *DataPlane) Stat(ctx context.Context, path string) (*FileInfo, error) {
	r := d.call(http.MethodGet, "/files/stat")
	r.query = url.Values{"path": {path}}
	var out FileInfo
	if _, err := d.client.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", path, err)
	}
	return &out, nil
}

// Mkdir makes a directory and its parents; no error when it exists.
func (d *DataPlane) Mkdir(ctx context.Context, path string) error {
	r := d.call(http.MethodPost, "/files/mkdir")
	r.query = url.Values{"path": {path}}
	if _, err := d.client.doJSON(ctx, r, nil); err != nil {
		return fmt.Errorf("making the directory %s: %w", path, err)
	}
	return nil
}

// Move renames a file or directory.
func (d *DataPlane) Move(ctx context.Context, from, to string) error {
	r := d.call(http.MethodPost, "/files/move")
	r.json = map[string]string{"from": from, "to": to}
	if _, err := d.client.doJSON(ctx, r, nil); err != nil {
		return fmt.Errorf("moving %s to %s: %w", from, to, err)
	}
	return nil
}

// Remove deletes a file, or a directory: with recursive with all it holds.
func (d *DataPlane) Remove(ctx context.Context, path string, recursive bool) error {
	r := d.call(http.MethodDelete, "/files")
	r.query = url.Values{"path": {path}}
	if recursive {
		r.query.Set("recursive", "true")
	}
	res, retried, err := d.client.do(ctx, r)
	if err != nil {
		if retried && IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("removing %s: %w", path, err)
	}
	return res.Body.Close()
}
