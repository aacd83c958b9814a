package unpack

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestLimits(t *testing.T) {
	deep := strings.Repeat("d/", 40)
	for name, c := range map[string]struct {
		limits Limits
		layers [][]item
	}{
		"entries":                 {Limits{Entries: 2}, [][]item{{file("a", ""), file("a", "")}, {file("a", "")}}},
		"directories on the way":  {Limits{Entries: 40}, [][]item{{file("a/"+deep+"x", "")}}},
		"whiteouts over and over": {Limits{Entries: 100}, [][]item{append(manyFiles("d/", 49), slices.Repeat([]item{file("d/.wh..wh..opq", "")}, 51)...)}},
		"bytes":                   {Limits{Bytes: 10000}, [][]item{{file("a", strings.Repeat("x", 4000))}, {file("a", strings.Repeat("x", 4000))}}},
		"name":                    {Limits{PathBytes: 100}, [][]item{{file(deep+deep+"x", "")}}},
		"name through links":      {Limits{PathBytes: 100}, [][]item{{directory(deep), symlink("l", deep)}, {file("l/"+deep+"x", "")}}},
		"name of a file":          {Limits{PathBytes: 100}, [][]item{{directory(deep), symlink("l", deep)}, {file("l/"+strings.Repeat("x", 60), "")}}},
		"component":               {Limits{}, [][]item{{file(strings.Repeat("x", 256), "")}}},
		"xattrs":                  {Limits{XattrBytes: 10}, [][]item{{{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "1", "SCHILY.xattr.user.b": "2"}}, ""}}}},
		"xattrs of a directory":   {Limits{XattrBytes: 10}, [][]item{{{tar.Header{Typeflag: tar.TypeDir, Name: "d", PAXRecords: map[string]string{"SCHILY.xattr.user.long": "12"}}, ""}}}},
		"the host's xattrs":       {Limits{XattrBytes: 1 << 20}, [][]item{{{tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.a": strings.Repeat("x", 70000)}}, ""}}}},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, archive(t, l...))
			}
			if _, err := apply(t, c.limits, layers...); !isTooLarge(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func manyFiles(prefix string, n int) (all []item) {
	for i := range n {
		all = append(all, file(fmt.Sprint(prefix, i), ""))
	}
	return all
}
