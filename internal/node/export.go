package node

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// Export implements template.Box. What the sandbox has not changed is read from its image rather than through it, where
// the runtime can tell: that takes a small part of the time.
func (b *box) Export(ctx context.Context) (io.ReadCloser, error) {
	m, err := b.node.machine(b.id)
	if err != nil {
		return nil, err
	}
	driver, err := b.node.cfg.Drivers.Version(m.record.RuntimeVersion)
	if err != nil {
		return nil, err
	}
	kept := driver.Info().FileOrigin
	ctx, cancel := b.live(ctx)
	body, err := b.agent.Export(ctx, "/", kept)
	if err != nil {
		cancel()
		return nil, err
	}
	if !kept {
		return &export{Reader: body, close: func() error { cancel(); return body.Close() }}, nil
	}
	image, err := b.openImage(ctx, m)
	if err != nil {
		cancel()
		return nil, errors.Join(err, body.Close())
	}
	out, in := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		in.CloseWithError(fillIn(body, image, in))
	}()
	return &export{Reader: out, close: func() error {
		cancel()
		errs := errors.Join(body.Close(), out.Close())
		<-done
		return errors.Join(errs, image.Close())
	}}, nil
}

// export is an open export; closing it ends the agent's work on it.
type export struct {
	io.Reader
	close func() error
}

func (e *export) Close() error { return e.close() }

// openImage opens the root image of a machine.
func (b *box) openImage(ctx context.Context, m *machine) (*os.Root, error) {
	dir, err := b.node.cfg.Images.Mount(ctx, m.record.ImageID)
	if err != nil {
		return nil, fmt.Errorf("mounting the root image: %w", err)
	}
	return os.OpenRoot(dir)
}

// fillIn copies a tar from an agent and gives the files that are the image's their contents. The agent is not trusted:
// whatever it names, nothing but regular files of the image are read, and the image has what its sandboxes may read.
func fillIn(from io.Reader, image *os.Root, to io.Writer) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	buf := make([]byte, 256<<10)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return fmt.Errorf("reading the root file system: %w", err)
		}
		if h.Typeflag == tar.TypeReg && h.PAXRecords[guestapi.KeptRecord] != "" {
			err = copyKept(image, h, out, buf)
		} else if err = out.WriteHeader(h); err == nil {
			_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf)
		}
		if err != nil {
			return err
		}
	}
}

// copyKept writes a file of the image.
func copyKept(image *os.Root, h *tar.Header, out *tar.Writer, buf []byte) error {
	name := strings.Trim(h.Name, "/")
	info, err := image.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("the sandbox says that %.100q is a file of its image, which it is not: %w", h.Name, errors.Join(err, os.ErrInvalid))
	}
	file, err := image.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("reading the root image: %w", err)
	}
	defer file.Close()
	h.Size, h.PAXRecords = info.Size(), map[string]string{}
	if err := copyXattrs(file, h, buf); err != nil {
		return fmt.Errorf("reading the root image: %w", err)
	}
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{file}, buf)
	return err
}

// copyXattrs takes over a file's extended attributes.
func copyXattrs(file *os.File, h *tar.Header, buf []byte) error {
	n, err := unix.Flistxattr(int(file.Fd()), buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(int(file.Fd()), name, buf)
		if err != nil {
			return err
		}
		h.PAXRecords["SCHILY.xattr."+name] = string(buf[:n])
	}
	return nil
}
