package buildcontext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// Context is a directory of which files are packed. Nothing outside of it is read, whatever links it holds.
type Context struct {
	root   *os.Root
	ignore *patternmatcher.PatternMatcher
}

// Open opens a directory. Its ignore file is <dockerfile>.dockerignore when there is one, else .dockerignore; dockerfile
// is the name of a file in the directory, or "".
func Open(dir, dockerfile string) (*Context, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the build context: %w", err)
	}
	c := &Context{root: root}
	patterns, err := c.ignorePatterns(dockerfile)
	if err == nil {
		c.ignore, err = patternmatcher.New(patterns)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading what to ignore: %w", err), root.Close())
	}
	return c, nil
}

// Close gives the directory up.
func (c *Context) Close() error { return c.root.Close() }

func (c *Context) ignorePatterns(dockerfile string) ([]string, error) {
	names := []string{".dockerignore"}
	if dockerfile != "" {
		names = append([]string{dockerfile + ".dockerignore"}, names...)
	}
	for _, name := range names {
		f, err := c.root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		patterns, err := ignorefile.ReadAll(f)
		return patterns, errors.Join(err, f.Close())
	}
	return nil, nil
}

// ignored says whether a path is left out.
func (c *Context) ignored(name string) (bool, error) {
	if name == "." {
		return false, nil
	}
	return c.ignore.MatchesOrParentMatches(name)
}

// Resolve replaces wildcards by the files that match. Each source must be there and not be ignored; of a wildcard at
// least one match must be. archives false refuses files that are archives.
func (c *Context) Resolve(sources []string, archives bool) ([]string, error) {
	var all []string
	for _, src := range sources {
		found, err := c.match(src)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("%s is not in the build context, or .dockerignore names it", src)
		}
		for _, name := range found {
			if slices.Contains(all, name) {
				continue
			}
			if err := c.check(name, archives); err != nil {
				return nil, err
			}
			all = append(all, name)
		}
	}
	return all, nil
}

func (c *Context) match(src string) ([]string, error) {
	names := []string{src}
	if strings.ContainsAny(src, `*?[\`) {
		var err error
		if names, err = fs.Glob(c.root.FS(), src); err != nil {
			return nil, fmt.Errorf("%s: %w", src, err)
		}
	}
	var found []string
	for _, name := range names {
		info, err := c.root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ignored, err := c.ignored(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		// What is in an ignored directory may be excepted.
		if !ignored || info.IsDir() && c.ignore.Exclusions() {
			found = append(found, name)
		}
	}
	return found, nil
}

func (c *Context) check(name string, archives bool) error {
	info, err := c.root.Stat(name)
	if err != nil || info.IsDir() {
		return err
	}
	if err := checkKind(name, info.Mode()); err != nil || archives {
		return err
	}
	f, err := c.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	archive, err := isArchive(f)
	if err == nil && archive {
		return fmt.Errorf("%s is an archive, which ADD would unpack; that is not supported: use COPY, and RUN tar", name)
	}
	return err
}

// isArchive knows what ADD unpacks by its first bytes.
func isArchive(r io.Reader) (bool, error) {
	head := make([]byte, 262)
	n, err := io.ReadFull(r, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, err
	}
	text := string(head[:n])
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if strings.HasPrefix(text, magic) {
			return true, nil
		}
	}
	return n == len(head) && text[257:262] == "ustar", nil
}

func checkKind(name string, mode fs.FileMode) error {
	if mode.IsRegular() || mode.IsDir() || mode&fs.ModeSymlink != 0 {
		return nil
	}
	return fmt.Errorf("%s is no file, directory or link; name it in .dockerignore", name)
}

// parents lists the directories above name, the nearest last.
func parents(name string) []string {
	var above []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		above = append(above, dir)
	}
	slices.Reverse(above)
	return above
}
