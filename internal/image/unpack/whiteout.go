package unpack

import (
	"errors"
	"io/fs"
	"path"
	"strings"
)

// The names of whiteouts (OCI image specification, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	// aufsPrefix begins the names of what AUFS kept for itself.
	aufsPrefix = ".wh..wh."
)

// looksPerEntry bounds how many files the whiteouts may look at, for each entry that there may be.
const looksPerEntry = 8

// whiteout hides something of the lower layers.
func (u *Unpacker) whiteout(entry, name string) error {
	base := path.Base(name)
	opaque := base == opaqueName
	if !opaque && strings.HasPrefix(base, aufsPrefix) {
		return nil
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if hidden == "" || hidden == "." || hidden == ".." {
		return unsafe(entry, "it is a whiteout for %q", hidden)
	}
	parent, err := u.tree.resolve(path.Dir(name), false)
	if errors.Is(err, errNotThere) {
		return nil
	}
	if err != nil {
		return err
	}
	if opaque {
		_, err := u.hideBelow(parent)
		return err
	}
	_, err = u.hide(path.Join(parent, hidden))
	return err
}

// hide removes what is at a real path, but nothing that this layer made; kept says that there was such.
func (u *Unpacker) hide(real string) (kept bool, err error) {
	_, ours := u.layer[u.hash(real)]
	isDir, err := u.isDir(real)
	if err != nil {
		return false, err
	}
	if isDir {
		if kept, err = u.hideBelow(real); err != nil {
			return false, err
		}
	}
	if ours {
		return true, nil
	}
	if kept {
		// The layer made something in a directory that it hides and does not describe.
		return true, u.tree.plain(real)
	}
	parent, err := u.tree.at(path.Dir(real))
	if err != nil {
		return false, err
	}
	return false, u.tree.remove(parent, path.Base(real))
}

// hideBelow hides all that is in a directory.
func (u *Unpacker) hideBelow(real string) (kept bool, err error) {
	names, err := u.tree.names(real)
	if err != nil {
		return false, err
	}
	// What a layer made itself stays, and would be looked at by each of its whiteouts again.
	if u.looked += len(names); u.looked > looksPerEntry*u.limits.Entries {
		return false, tooLarge("", "its whiteouts look at the same files again and again")
	}
	// What was removed changed the directory's time, which the open directory remembers.
	if _, err := u.tree.at(real); err != nil {
		return false, err
	}
	for _, name := range names {
		k, err := u.hide(path.Join(real, name))
		if err != nil {
			return false, err
		}
		kept = kept || k
	}
	return kept, nil
}

// isDir says whether there is a directory, and not a link to one, at a real path.
func (u *Unpacker) isDir(real string) (bool, error) {
	info, err := u.tree.root.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return info.IsDir(), nil
}
