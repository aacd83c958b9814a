package buildcontext

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// packedAt is the time of everything in a tar: the earliest that ZIP can hold, for tools that pack the files again.
func packedAt() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }

// Pack writes a tar of what Resolve has found. A source that is a symbolic link is packed as what it leads to; links
// further down stay links.
func (c *Context) Pack(w io.Writer, sources []string) error {
	p := &packer{context: c, tar: tar.NewWriter(w), done: map[string]bool{}}
	for _, src := range sources {
		if err := p.source(src); err != nil {
			return fmt.Errorf("packing %s: %w", src, err)
		}
	}
	return p.tar.Close()
}

type packer struct {
	context *Context
	tar     *tar.Writer
	done    map[string]bool
}

func (p *packer) source(src string) error {
	return fs.WalkDir(p.context.root.FS(), src, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ignored, err := p.context.ignored(name)
		if err != nil {
			return err
		}
		switch {
		case ignored && entry.IsDir() && !p.context.ignore.Exclusions():
			return fs.SkipDir
		case ignored, entry.Type()&fs.ModeSocket != 0: // a socket is nothing without who listens
			return nil
		}
		for _, dir := range parents(name) {
			if err := p.entry(dir, true); err != nil { // also one that is ignored and holds an exception
				return err
			}
		}
		return p.entry(name, name == src)
	})
}

// entry writes one file, directory or link, unless it has been written; follow takes a link's target in its place.
func (p *packer) entry(name string, follow bool) error {
	if name == "." || p.done[name] {
		return nil
	}
	p.done[name] = true
	stat := p.context.root.Lstat
	if follow {
		stat = p.context.root.Stat
	}
	info, err := stat(name)
	if err != nil {
		return err
	}
	if err := checkKind(name, info.Mode()); err != nil {
		return err
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if link, err = p.context.root.Readlink(name); err != nil {
			return err
		}
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Linkname: link, Mode: int64(info.Mode().Perm()), ModTime: packedAt(), Format: tar.FormatPAX,
	}
	switch {
	case info.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case link != "":
		header.Typeflag, header.Mode = tar.TypeSymlink, 0o777
	default:
		header.Size = info.Size()
	}
	if err := p.tar.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
		return err
	}
	return p.content(name, info)
}

func (p *packer) content(name string, info fs.FileInfo) error {
	f, err := p.context.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, opened) {
		return fmt.Errorf("%s was replaced while it was read", name)
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, info.Size()))
	if err == nil && n != info.Size() {
		return fmt.Errorf("%s became shorter while it was read", name)
	}
	return err
}
