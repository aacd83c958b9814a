package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// copyFiles does a copy step: what it asks for of the context is unpacked in the sandbox.
func (j *job) copyFiles(box template.Box, st state, step *sandbox.CopyStep) error {
	file, err := os.Open(j.b.uploadPath(sandbox.UploadContext, step.Context))
	if err != nil {
		return &refusal{text: "the build context is not there any more; send it again", cause: err}
	}
	defer file.Close()
	c, err := planCopy(file, step, st)
	if err != nil {
		return err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	owner := step.Chown
	if owner == "" {
		owner = "root"
	}
	out, in := io.Pipe()
	defer out.Close() // ends the writer when nobody reads on
	go func() { in.CloseWithError(c.filter(file, in)) }()
	return refused(box.Unpack(j.ctx, c.dir, owner, out))
}

// copyPlan says where each thing goes.
type copyPlan struct {
	dir string // where the tar is unpacked
	src []copySource
}

// copySource is one source of a copy.
type copySource struct {
	name  string // in the context, clean; "." is all
	as    string // its name below dir; of a directory "": its contents go there
	isDir bool
}

// planCopy looks at what the sources are, since that decides where they go.
func planCopy(context io.Reader, step *sandbox.CopyStep, st state) (*copyPlan, error) {
	c := &copyPlan{}
	for _, src := range step.Src {
		c.src = append(c.src, copySource{name: path.Clean(src)})
	}
	found := make([]bool, len(c.src))
	err := eachEntry(context, func(h *tar.Header, name string, _ io.Reader) error {
		for i, s := range c.src {
			switch {
			case s.name == "." || strings.HasPrefix(name, s.name+"/"):
				found[i], c.src[i].isDir = true, true
			case name == s.name:
				found[i], c.src[i].isDir = true, s.isDir || h.Typeflag == tar.TypeDir
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if i := slices.Index(found, false); i >= 0 && c.src[i].name != "." {
		return nil, &refusal{text: fmt.Sprintf("the build context has no %s", c.src[i].name)}
	}
	target := st.path(step.Dst)
	into := strings.HasSuffix(step.Dst, "/") || len(c.src) > 1 ||
		slices.ContainsFunc(c.src, func(s copySource) bool { return s.isDir || s.name == "." })
	c.dir = target
	if !into {
		c.dir = path.Dir(target)
	}
	for i, s := range c.src {
		switch {
		case s.isDir || s.name == ".":
		case into:
			c.src[i].as = path.Base(s.name)
		default:
			c.src[i].as = path.Base(target)
		}
	}
	return c, nil
}

// rename gives an entry's name below dir; false when no source has it.
func (c *copyPlan) rename(name string) (string, bool) {
	for _, s := range c.src {
		if s.name == name && !s.isDir {
			return s.as, true
		}
		if s.name == "." {
			return name, true
		}
		if rest, ok := strings.CutPrefix(name, s.name+"/"); ok && s.isDir {
			return rest, true
		}
	}
	return "", false
}

// filter writes what is copied as a tar for dir.
func (c *copyPlan) filter(context io.Reader, to io.Writer) error {
	out := tar.NewWriter(to)
	err := eachEntry(context, func(h *tar.Header, name string, content io.Reader) error {
		as, ok := c.rename(name)
		if !ok || as == "" || as == "." {
			return nil
		}
		next := &tar.Header{Typeflag: h.Typeflag, Name: as, Size: h.Size, Mode: h.Mode, ModTime: h.ModTime, Linkname: h.Linkname, Format: tar.FormatPAX}
		switch h.Typeflag {
		case tar.TypeDir:
			next.Name += "/"
		case tar.TypeReg, tar.TypeSymlink:
		case tar.TypeLink:
			if next.Linkname, ok = c.rename(path.Clean(h.Linkname)); !ok {
				return &refusal{text: fmt.Sprintf("%s is a hard link to %s, which is not copied", name, h.Linkname)}
			}
		default:
			return &refusal{text: fmt.Sprintf("%s in the build context is neither a file, a directory nor a link", name)}
		}
		if err := out.WriteHeader(next); err != nil {
			return err
		}
		_, err := io.Copy(out, content)
		return err
	})
	return errors.Join(err, out.Close())
}

// eachEntry goes through a tar of files. name is clean and below the root.
func eachEntry(r io.Reader, each func(h *tar.Header, name string, content io.Reader) error) error {
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &refusal{text: "what was uploaded is not a tar archive", cause: err}
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		if name == ".." || strings.HasPrefix(name, "../") {
			return &refusal{text: fmt.Sprintf("the build context's entry %.100q leads out of it", h.Name)}
		}
		if err := each(h, name, in); err != nil {
			return err
		}
	}
}
