package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fuzzLimits keep a round short.
func fuzzLimits() Limits {
	return Limits{Bytes: 1 << 20, Entries: 200, PathBytes: 300, XattrBytes: 200}
}

// checkLayers unpacks layers over each other and looks whether what is next to the tree is as before.
func checkLayers(t *testing.T, layers ...[]byte) {
	outside := t.TempDir()
	victim, root := filepath.Join(outside, "victim"), filepath.Join(outside, "root")
	for _, err := range []error{os.WriteFile(victim, []byte("as before"), 0o600), os.Mkdir(root, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before := stat(t, outside)
	u, err := New(root, fuzzLimits())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, layer := range layers {
		if _, err := u.Layer(ctx, bytes.NewReader(layer)); err != nil && !isUnsafe(err) && !isTooLarge(err) {
			t.Errorf("neither unsafe nor too large: %v", err)
		}
	}
	if err := u.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "as before" || stat(t, victim).Mode&0o7777 != 0o600 || stat(t, victim).Nlink != 1 {
		t.Errorf("the file outside was changed: %q", got)
	}
	if after := stat(t, outside); after.Mode != before.Mode || after.Mtim != before.Mtim || after.Uid != before.Uid {
		t.Error("the directory outside was changed")
	}
}

// FuzzLayer unpacks anything at all.
func FuzzLayer(f *testing.F) {
	plain := archive(f, directory("d"), file("d/f", "content"), symlink("l", "d"), hardLink("h", "d/f"), file("l/.wh.f", ""))
	for _, kind := range []string{"plain", "gzip", "zstd"} {
		f.Add(compressed(f, kind, plain))
	}
	f.Add(sparse(f, "100000"))
	f.Add(sparse(f, "1000000000000"))
	f.Fuzz(func(t *testing.T, layer []byte) { checkLayers(t, layer, layer) })
}

// FuzzEntries unpacks entries of any names, written as in parseEntries.
func FuzzEntries(f *testing.F) {
	for _, story := range []string{
		"d d\n- d/f content\ns l d\nh h d/f\n=\n- l/.wh.f", "- ../victim x", "s l ..\n- l/victim x", "s l ../../\nd l/new",
		"h h ../victim\n- h x", "s a b\ns b a\n- a/x", "- d/.wh..wh..opq\n- d/a/b\n- d x", "- .wh...", "d .\nd /",
		"c c\np p\nd d\n=\ns d ..\n=\n- d/.wh.victim", "- c/c x\nh c c/c", "s l /\n- l/l/l/x y\n=\n- .wh..wh..opq\nh a l/x",
	} {
		f.Add(story)
	}
	f.Fuzz(func(t *testing.T, story string) { checkLayers(t, parseEntries(t, story)...) })
}

// parseEntries makes layers of lines "<kind> <name> <link's target or content>", and "=" between layers.
func parseEntries(t *testing.T, story string) (layers [][]byte) {
	kinds := map[string]byte{
		"-": tar.TypeReg, "d": tar.TypeDir, "s": tar.TypeSymlink, "h": tar.TypeLink, "c": tar.TypeChar, "b": tar.TypeBlock, "p": tar.TypeFifo,
	}
	for layer := range strings.SplitSeq(story, "\n=\n") {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for line := range strings.SplitSeq(layer, "\n") {
			fields := append(strings.SplitN(line, " ", 3), "", "", "")
			h := &tar.Header{Typeflag: kinds[fields[0]], Name: fields[1], Mode: int64(len(line)), ModTime: then, Format: tar.FormatPAX}
			switch h.Typeflag {
			case 0:
				continue
			case tar.TypeReg:
				h.Size = int64(len(fields[2]))
			case tar.TypeSymlink, tar.TypeLink:
				h.Linkname = fields[2]
			}
			if err := w.WriteHeader(h); err != nil {
				continue // a name that no tar can have
			}
			if h.Typeflag == tar.TypeReg {
				if _, err := w.Write([]byte(fields[2])); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, buf.Bytes())
	}
	return layers
}
