package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/sandbox"
)

func (a *App) sandboxCpCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "Copy a file or directory into a sandbox or out of it",
		Long: `Copy one file, or with -r a directory and all it holds. The side in the sandbox is ID:/absolute/path, the other a
local path or - for standard input or output. A target that ends in / or is a local directory keeps the source's name.
Directories that are missing in the sandbox are made. An existing file is replaced when the copy is complete, not
before, and keeps its permissions; a new one has 0644.

With -r the files of the source are put over those of the target. They keep their permissions, but not owners, times,
setuid bits and hard links. Symbolic links are copied into a sandbox and left out on the way out of it; devices, pipes
and sockets are always left out.`,
		Example: `  superserve sandbox cp data.csv ID:/home/user/
  superserve sandbox cp ID:/home/user/result.json .
  superserve sandbox cp -r site ID:/srv/`,
		Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parseLocation(args[0]), parseLocation(args[1])
			if err := checkLocations(from, to, recursive); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			switch {
			case recursive && to.id != "":
				return a.uploadDir(cmd.Context(), c, from.path, to)
			case recursive:
				return a.downloadDir(cmd.Context(), c, from, to.path)
			case to.id != "":
				return a.upload(cmd.Context(), c, from.path, to)
			}
			return a.download(cmd.Context(), c, from, to.path)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy a directory")
	return cmd
}

// location is one side of a copy; id is "" for a local one.
type location struct{ id, path string }

// parseLocation takes ID:/path for a place in a sandbox only when ID really is one, so that local names may hold
// colons.
func parseLocation(arg string) location {
	if id, p, ok := strings.Cut(arg, ":"); ok && sandbox.ValidID(strings.ToLower(id)) {
		return location{id: strings.ToLower(id), path: p}
	}
	return location{path: arg}
}

// checkLocations finds what can be seen of a copy to be wrong before anything is sent.
func checkLocations(from, to location, recursive bool) error {
	switch {
	case from.id == "" && to.id == "":
		return usagef("one side must be in a sandbox, written ID:/absolute/path; superserve sandbox list shows the ids")
	case from.id != "" && to.id != "":
		return usagef("only one side can be in a sandbox; copy through - or a local file")
	case from.id == "" && from.path == "-" && strings.HasSuffix(to.path, "/"):
		return usagef("standard input has no name; give the target's full path")
	case from.id == "" && from.path == "-" && recursive:
		return usagef("-r copies a directory, and standard input is none")
	case to.id == "" && to.path == "-" && recursive:
		return usagef("a directory cannot be copied to standard output")
	}
	for _, l := range []location{from, to} {
		if l.id != "" && !strings.HasPrefix(l.path, "/") {
			return usagef("the path in the sandbox must be absolute, written %s:/absolute/path; got %q", l.id, l.path)
		}
	}
	return nil
}

func (a *App) upload(ctx context.Context, c *client.Client, local string, to location) error {
	var r = a.In
	size := int64(-1)
	if local != "-" {
		f, length, err := openSource(ctx, local)
		if err != nil {
			return err
		}
		defer f.Close()
		r, size = f, length
	}
	if strings.HasSuffix(to.path, "/") {
		to.path = path.Join(to.path, filepath.Base(local))
	}
	dp, err := c.Connect(ctx, to.id)
	if err != nil {
		return err
	}
	bar := a.progress(size, "uploading")
	written, err := dp.WriteFile(ctx, to.path, io.TeeReader(r, bar), size)
	if client.CodeOf(err) == isDirectory {
		err = fmt.Errorf("%w; with a / at its end the file goes into it", err)
	}
	if err = errors.Join(err, bar.Close()); err != nil {
		return err
	}
	return a.copied(written.Path, written.Size)
}

// isDirectory is the API's code for a directory where a file is meant.
const isDirectory = "is_directory"

// openSource opens what is to be copied; its size is -1 when only the reading tells, as of a pipe or of a file in /proc,
// which says that it has none.
func openSource(ctx context.Context, name string) (f *os.File, size int64, err error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() { // a named pipe is open when somebody has opened its other end
		f, err := os.Open(name)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		f, err = o.f, o.err
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory; cp -r copies directories", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return f, -1, nil
	}
	return f, info.Size(), nil
}

func (a *App) download(ctx context.Context, c *client.Client, from location, local string) error {
	dp, err := c.Connect(ctx, from.id)
	if err != nil {
		return err
	}
	body, err := dp.ReadFile(ctx, from.path)
	if client.CodeOf(err) == isDirectory {
		return fmt.Errorf("%w; cp -r copies directories", err)
	}
	if err != nil {
		return err
	}
	size := body.Size
	defer body.Close()
	bar := a.progress(size, "downloading")
	var n int64
	if local == "-" {
		n, err = io.Copy(io.MultiWriter(a.Out, bar), body)
	} else {
		local = localTarget(local, from)
		n, err = saveFile(local, io.TeeReader(body, bar), size)
	}
	if err = errors.Join(err, bar.Close()); err != nil {
		return err
	}
	if local == "-" {
		return nil
	}
	return a.copied(local, n)
}

// localTarget is where a copy out of a sandbox goes: into a directory under its own name.
func localTarget(local string, from location) string {
	if info, err := os.Stat(local); strings.HasSuffix(local, "/") || (err == nil && info.IsDir()) {
		return filepath.Join(local, path.Base(path.Clean("/"+from.path)))
	}
	return local
}

// saveFile writes all of r under a temporary name and renames it, so that a broken download leaves the old file. A
// size of -1 is unknown.
func saveFile(name string, r io.Reader, size int64) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".superserve-*")
	if err != nil {
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			err = e.Err // the temporary name tells nobody anything
		}
		return 0, fmt.Errorf("writing in the directory %s: %w", filepath.Dir(name), err)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // gone after the rename
	n, err = io.Copy(f, r)
	if err == nil && size >= 0 && n != size {
		err = io.ErrUnexpectedEOF
	}
	mode := os.FileMode(0o644)
	if info, statErr := os.Stat(name); statErr == nil {
		mode = info.Mode().Perm()
	}
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err != nil {
		return n, fmt.Errorf("writing %s: %w", name, err)
	}
	return n, os.Rename(f.Name(), name)
}

func (a *App) copied(target string, size int64) error {
	if a.json {
		return a.printJSON(map[string]any{"path": target, "size": size})
	}
	fmt.Fprintf(a.Err, "copied %s to %s\n", shownBytes(&size), printable(target))
	return nil
}

// progress is a bar on a terminal and nothing anywhere else. A size of -1 is unknown.
func (a *App) progress(size int64, doing string) io.WriteCloser {
	if !isTerminal(a.Err) || a.json {
		return nopWriteCloser{io.Discard}
	}
	return progressbar.NewOptions64(size,
		progressbar.OptionSetWriter(a.Err), progressbar.OptionSetDescription(doing), progressbar.OptionShowBytes(true),
		progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
}

type nopWriteCloser struct{ io.Writer }

// Close does nothing.
func (nopWriteCloser) Close() error { return nil }
