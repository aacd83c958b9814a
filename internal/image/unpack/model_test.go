package unpack

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// model is the naive flattening: a tree in memory, without limits, caches or hostile input in mind. It follows links
// only in parents, one component after the other.
type model struct {
	root  *node
	layer map[string]bool // real paths that the layer under way made
}

type node struct {
	kind     byte
	content  string // or a link's target
	mode     int64
	uid      int
	mtime    time.Time
	children map[string]*node
}

type modelRefuses struct{ why string }

func newModel() *model {
	return &model{root: &node{kind: tar.TypeDir, mode: 0o755, children: map[string]*node{}}}
}

// apply answers whether the layer is accepted.
func (m *model) apply(items []item) (err error) {
	defer func() {
		if r, ok := recover().(modelRefuses); ok {
			err = fmt.Errorf("%s", r.why)
		}
	}()
	m.layer = map[string]bool{}
	for _, it := range items {
		m.entry(it)
	}
	return nil
}

func (m *model) entry(it item) {
	name := path.Clean("/" + it.Name)[1:]
	dir, base := path.Split(name)
	if strings.HasPrefix(base, ".wh.") {
		at, real := m.walk(dir, false)
		if at == nil {
			return
		}
		if base == ".wh..wh..opq" {
			m.hideBelow(at, real)
		} else {
			m.hide(at, real, base[4:])
		}
		return
	}
	at, real := m.walk(dir, true)
	full := path.Join(real, base)
	made := &node{kind: it.Typeflag, content: it.content, mode: it.Mode, uid: it.Uid, mtime: it.ModTime}
	switch it.Typeflag {
	case tar.TypeDir:
		made.children = map[string]*node{}
		if old := at.children[base]; old != nil && old.kind == tar.TypeDir {
			made.children = old.children
		}
	case tar.TypeSymlink:
		made.content = it.Linkname
	case tar.TypeLink:
		target := path.Clean("/" + it.Linkname)[1:]
		from, at := m.walk(path.Dir(target), false)
		if from == nil || strings.HasPrefix(path.Join(at, path.Base(target)), full+"/") || from.children[path.Base(target)] == nil || from.children[path.Base(target)].kind == tar.TypeDir {
			panic(modelRefuses{"hard link to nothing, to a directory or over it"})
		}
		made = from.children[path.Base(target)]
	}
	at.children[base] = made
	m.layer[full] = true
}

// walk goes to a directory; nil when it is not there and not to be made.
func (m *model) walk(dir string, create bool) (*node, string) {
	todo, trail, names, links := strings.Split(dir, "/"), []*node{m.root}, []string{}, 0
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			if len(names) == 0 {
				panic(modelRefuses{"above the root"})
			}
			trail, names = trail[:len(trail)-1], names[:len(names)-1]
			continue
		}
		at := trail[len(trail)-1]
		next := at.children[c]
		if next != nil && next.kind == tar.TypeSymlink {
			if links++; links > 40 {
				panic(modelRefuses{"too many links"})
			}
			if strings.HasPrefix(next.content, "/") {
				trail, names = trail[:1], nil
			}
			todo = append(strings.Split(next.content, "/"), todo...)
			continue
		}
		if next == nil || next.kind != tar.TypeDir {
			if !create {
				return nil, ""
			}
			next = implicit(map[string]*node{})
			at.children[c] = next
		}
		trail, names = append(trail, next), append(slices.Clone(names), c)
	}
	return trail[len(trail)-1], strings.Join(names, "/")
}

func implicit(children map[string]*node) *node {
	return &node{kind: tar.TypeDir, mode: 0o755, mtime: time.Unix(0, 0), children: children}
}

func (m *model) hide(at *node, real, name string) (kept bool) {
	n, full := at.children[name], path.Join(real, name)
	if n == nil {
		return m.layer[full]
	}
	if n.kind == tar.TypeDir {
		kept = m.hideBelow(n, full)
	}
	if m.layer[full] {
		return true
	}
	if kept {
		at.children[name] = implicit(n.children)
		return true
	}
	delete(at.children, name)
	return false
}

func (m *model) hideBelow(n *node, real string) (kept bool) {
	for name := range n.children {
		if m.hide(n, real, name) {
			kept = true
		}
	}
	return kept
}

// list describes the tree; files that are one have one number.
func (m *model) list() []string {
	var out []string
	ids := map[*node]string{}
	var visit func(n *node, at string)
	visit = func(n *node, at string) {
		names := make([]string, 0, len(n.children))
		for name := range n.children {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			c, full := n.children[name], path.Join(at, name)
			if ids[c] == "" {
				ids[c] = full
			}
			mode := c.mode
			if c.kind == tar.TypeSymlink {
				mode = 0o777
			}
			out = append(out, fmt.Sprintf("%s %c %o %d %d %q same as %s", full, c.kind, mode, c.uid, c.mtime.Unix(), c.content, ids[c]))
			visit(c, full)
		}
	}
	visit(m.root, "")
	return out
}

// listReal is list for a directory.
func listReal(t testing.TB, root string) []string {
	var out []string
	ids := map[uint64]string{}
	var visit func(at string)
	visit = func(at string) {
		entries, err := os.ReadDir(filepath.Join(root, at))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			full := path.Join(at, e.Name())
			name := filepath.Join(root, full)
			st := stat(t, name)
			if ids[st.Ino] == "" {
				ids[st.Ino] = full
			}
			kind, content := byte(tar.TypeReg), ""
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				kind = tar.TypeDir
			case unix.S_IFLNK:
				kind = tar.TypeSymlink
				content, _ = os.Readlink(name)
			case unix.S_IFIFO:
				kind = tar.TypeFifo
			default:
				data, _ := os.ReadFile(name)
				content = string(data)
			}
			out = append(out, fmt.Sprintf("%s %c %o %d %d %q same as %s", full, kind, st.Mode&0o7777, st.Uid, st.Mtim.Sec, content, ids[st.Ino]))
			if kind == tar.TypeDir {
				visit(full)
			}
		}
	}
	visit("")
	return out
}

// randomLayer makes entries that often meet each other: few names, all kinds.
func randomLayer(r *rand.Rand) []item {
	names := []string{"a", "b", "c", "l"}
	where := func() string {
		parts := make([]string, 1+r.IntN(4))
		for i := range parts {
			parts[i] = names[r.IntN(len(names))]
		}
		return strings.Join(parts, "/")
	}
	targets := []string{"a", "/a", "b", "/c/b", "b/c", "/", "../a", "/l", "nowhere"}
	var items []item
	for range 1 + r.IntN(12) {
		h := tar.Header{Name: where(), Mode: []int64{0o644, 0o755, 0o4711, 0o1777}[r.IntN(4)], Uid: r.IntN(3), ModTime: time.Unix(int64(1+r.IntN(1000)), 0)}
		content := ""
		switch n := r.IntN(20); {
		case n < 7:
			h.Typeflag, content = tar.TypeReg, fmt.Sprint(r.IntN(100))
		case n < 12:
			h.Typeflag = tar.TypeDir
		case n < 14:
			h.Typeflag, h.Linkname = tar.TypeSymlink, targets[r.IntN(len(targets))]
		case n < 15:
			h.Typeflag = tar.TypeFifo
		case n < 16:
			h.Typeflag, h.Linkname = tar.TypeLink, where()
			if i := r.IntN(len(items) + 1); i < len(items) && r.IntN(8) > 0 {
				h.Linkname = items[i].Name
			}
		case n < 18:
			h.Typeflag = tar.TypeReg
			h.Name = path.Join(path.Dir(h.Name), ".wh."+path.Base(h.Name))
		default:
			h.Typeflag = tar.TypeReg
			h.Name = path.Join(path.Dir(h.Name), ".wh..wh..opq")
		}
		items = append(items, item{h, content})
	}
	return items
}

// Flattening gives what the naive model gives, for layers of all kinds of entries, and refuses the same.
func TestFlatteningAgainstModel(t *testing.T) {
	refused, kinds := 0, map[byte]int{}
	const runs = 1000
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 5))
		m := newModel()
		var layers [][]byte
		var story []string
		var want error
		for range 1 + r.IntN(4) {
			items := randomLayer(r)
			layers = append(layers, archive(t, items...))
			for _, it := range items {
				story = append(story, fmt.Sprintf("%c %s %s", it.Typeflag, it.Name, it.Linkname))
			}
			story = append(story, "--")
			if want = m.apply(items); want != nil {
				refused++
				break
			}
		}
		root, err := apply(t, Limits{}, layers...)
		if (err != nil) != (want != nil) || err != nil && !isUnsafe(err) {
			t.Fatalf("seed %d: got %v, the model says %v\n%s", seed, err, want, strings.Join(story, "\n"))
		}
		if want != nil {
			continue
		}
		got, expected := listReal(t, root), m.list()
		if !slices.Equal(got, expected) {
			t.Fatalf("seed %d:\n%s\ngot\n  %s\nwant\n  %s", seed, strings.Join(story, "\n"), strings.Join(got, "\n  "), strings.Join(expected, "\n  "))
		}
		for _, line := range got {
			kinds[strings.Fields(line)[1][0]]++
		}
	}
	t.Logf("%d of %d refused; entries by kind: %v", refused, runs, kinds)
	if refused > runs/2 || kinds[tar.TypeReg] < 100 || kinds[tar.TypeDir] < 100 || kinds[tar.TypeSymlink] < 100 || kinds[tar.TypeFifo] < 50 {
		t.Error("the random layers don't try enough")
	}
}
