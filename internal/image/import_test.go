package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/superserve/superserve/internal/image/registrytest"
	"github.com/superserve/superserve/internal/image/unpack"
)

// testImage is an image with a file that holds content.
func testImage(t *testing.T, content string) v1.Image {
	return registrytest.Image(t, v1.Config{Cmd: []string{"/run"}},
		registrytest.Layer(t, registrytest.File("f", "lower")), registrytest.Layer(t, registrytest.File("f", content)))
}

// writeLayout writes images into a new layout, each under its name.
func writeLayout(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	l, err := layout.Write(dir, registrytest.Index(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, img := range images {
		if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{refNameKey: name})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tarOf packs a directory.
func tarOf(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "archive.tar")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), os.WriteFile(file, buf.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

// saved writes what docker save would.
func saved(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "saved.tar")
	refs := map[name.Reference]v1.Image{}
	for n, img := range images {
		ref, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		refs[ref] = img
	}
	if err := tarball.MultiRefWriteToFile(file, refs); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImport(t *testing.T) {
	one, two := testImage(t, "one"), testImage(t, "two")
	single, both := map[string]v1.Image{"v1": one}, map[string]v1.Image{"v1": one, "v2": two}
	savedBoth := map[string]v1.Image{"example/app:v1": one, "example/app:v2": two}
	digest, _ := one.Digest()
	id, _ := one.ConfigName()
	for name, c := range map[string]struct {
		path, reference, content, digest string
	}{
		"layout":                 {writeLayout(t, single), "", "one", digest.String()},
		"layout, by name":        {writeLayout(t, both), "v1", "one", digest.String()},
		"layout, tar":            {tarOf(t, writeLayout(t, single)), "", "one", digest.String()},
		"layout, tar, by name":   {tarOf(t, writeLayout(t, both)), "v1", "one", digest.String()},
		"docker save":            {saved(t, map[string]v1.Image{"example/app:v1": one}), "", "one", id.String()},
		"docker save, by name":   {saved(t, savedBoth), "example/app:v1", "one", id.String()},
		"docker save, old links": {linkedSave(t, one), "", "one", id.String()},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{})
			var last Progress
			p, err := s.ImportLayout(t.Context(), c.path, ImportOptions{Reference: c.reference, Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if p.Digest != c.digest || p.Config.Cmd[0] != "/run" || last.Step != stepCommit || p.Image.Origin.Digest != c.digest {
				t.Errorf("%+v, last %+v", p, last)
			}
			if got := readFile(t, mounted(t, s, p.Image.ID)+"/f"); got != c.content {
				t.Errorf("the file holds %q", got)
			}
			if info, err := os.Stat(c.path); err != nil || info.IsDir() {
				return
			}
			again, err := s.ImportLayout(t.Context(), c.path, ImportOptions{Reference: c.reference})
			if err != nil || again.Image.ID != p.Image.ID {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// A file that is both a manifest and a configuration is not taken for one when it is used as the other.
func TestManifestThatIsAConfiguration(t *testing.T) {
	one, two := testImage(t, "one"), testImage(t, "two")
	manifest, err := two.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := one.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var both map[string]json.RawMessage
	if err := json.Unmarshal(config, &both); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(manifest, &both); err != nil { // its keys over those of the other
		t.Fatal(err)
	}
	data, err := json.Marshal(both)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	dir := writeLayout(t, map[string]v1.Image{"two": two})
	index := fmt.Sprintf(`{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": %d, "digest": "sha256:%s"}]}`,
		len(data), digest)
	layers, err := one.Layers()
	if err != nil {
		t.Fatal(err)
	}
	m := savedImage{Config: "config.json"}
	entries := []registrytest.Entry{registrytest.File("config.json", string(data))}
	for i, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, fmt.Sprint(i))
		entries = append(entries, registrytest.File(fmt.Sprint(i), string(content)))
	}
	list, err := json.Marshal([]savedImage{m})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "saved.tar")
	err = errors.Join(os.WriteFile(file, registrytest.Tar(t, append(entries, registrytest.File(savedIndex, string(list)))...), 0o600),
		os.WriteFile(filepath.Join(dir, "blobs/sha256", digest), data, 0o600), os.WriteFile(filepath.Join(dir, layoutIndex), []byte(index), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{})
	for _, c := range []struct{ path, content string }{{file, "one"}, {dir, "two"}} {
		p, err := s.ImportLayout(t.Context(), c.path, ImportOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := readFile(t, mounted(t, s, p.Image.ID)+"/f"); p.Digest != "sha256:"+digest || got != c.content {
			t.Errorf("%s holds %q", c.content, got)
		}
	}
}

// linkedSave is docker save's older form, in which a layer can be a link to another's file.
func linkedSave(t *testing.T, img v1.Image) string {
	t.Helper()
	var entries []registrytest.Entry
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	m := savedImage{Config: "config.json"}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		dir := strings.Repeat(string(rune('a'+i)), 4)
		entries = append(entries, registrytest.File(dir+"/real.tar", string(data)), registrytest.Symlink("./"+dir+"-link/layer.tar", "../"+dir+"/real.tar"))
		m.Layers = append(m.Layers, dir+"-link/layer.tar")
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	index, err := json.Marshal([]savedImage{m})
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, registrytest.File("config.json", string(config)), registrytest.File(savedIndex, string(index)))
	file := filepath.Join(t.TempDir(), "old.tar")
	if err := os.WriteFile(file, registrytest.Tar(t, entries...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImportRefuses(t *testing.T) {
	one := testImage(t, "one")
	both := map[string]v1.Image{"v1": one, "v2": testImage(t, "two")}
	layers, _ := one.Layers()
	digest, _ := layers[1].Digest()
	change := func(name string, to []byte) string {
		dir := writeLayout(t, map[string]v1.Image{"v1": one})
		if err := os.WriteFile(filepath.Join(dir, name), to, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	other := registrytest.Layer(t, registrytest.File("f", "other"))
	body, _ := other.Compressed()
	otherBytes, _ := io.ReadAll(body)
	config, _ := one.ConfigName()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	linked := writeLayout(t, map[string]v1.Image{"v1": one})
	if err := errors.Join(os.Remove(linked+"/index.json"), os.Symlink(secret, linked+"/index.json")); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("no archive "), 100), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(t.TempDir(), "long")
	entry := registrytest.File(strings.Repeat("n/", 1<<10), "")
	if err := os.WriteFile(long, registrytest.Tar(t, registrytest.File("index.json", "{}"), entry), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path, reference string
		code            Code
		words           string
	}{
		"several":            {writeLayout(t, both), "", CodeBadReference, "it has: v"},
		"several, saved":     {saved(t, map[string]v1.Image{"a:1": one, "b:1": both["v2"]}), "c:1", CodeBadReference, "a:1"},
		"no such name":       {tarOf(t, writeLayout(t, both)), "v3", CodeBadReference, "v2"},
		"nothing":            {t.TempDir(), "", CodePullFailed, "neither an OCI image layout nor from docker save"},
		"no file":            {"/no/such/file", "", CodeBadReference, "can't be read"},
		"text":               {text, "", CodePullFailed, "not a tar"},
		"another layer":      {change("blobs/sha256/"+digest.Hex, otherBytes), "", CodePullFailed, "layer 2 is not the one"},
		"another config":     {change("blobs/sha256/"+config.Hex, []byte("{}")), "", CodePullFailed, "does not match its digest"},
		"broken index":       {change("index.json", []byte("{")), "", CodePullFailed, "not valid JSON"},
		"a link to the host": {linked, "", CodePullFailed, "can't be read"},
		"a long name":        {long, "", CodeTooLarge, "a name with more than"},
		"a bomb of JSON":     {change("index.json", []byte(`{"manifests":[`+strings.Repeat("0,", 1<<20)+`0]}`)), "", CodeTooLarge, "elements"},
		"a missing layer":    {change("blobs/sha256/"+digest.Hex, nil), "", CodePullFailed, "layer 2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), Options{})
			p, err := s.ImportLayout(t.Context(), c.path, ImportOptions{Reference: c.reference})
			if err == nil {
				t.Errorf("%+v", p)
			}
			wantCode(t, err, c.code, c.words)
			checkNothingLeft(t, s)
		})
	}
}

// iotestErr is an upload that breaks.
type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func FuzzImportArchive(f *testing.F) {
	f.Add(registrytest.Tar(f, registrytest.File("index.json", `{"manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:`+strings.Repeat("a", 64)+`"}]}`)))
	f.Add(registrytest.Tar(f, registrytest.File("manifest.json", `[{"Config": "c", "Layers": ["l"]}]`), registrytest.Symlink("c", "l"), registrytest.Symlink("l", "c")))
	f.Add(registrytest.Tar(f, registrytest.File("manifest.json", `[{"Config": "c"}]`), registrytest.File("c", `{"os": "linux"}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.Create(filepath.Join(t.TempDir(), "archive"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		files, err := openArchive(file)
		if err != nil {
			return
		}
		want, _ := parsePlatform("")
		_, _ = readLayout(files, "", want)
		_, _ = readSaved(files, "", want)
	})
}

func TestFromTar(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	origin := Origin{Reference: "build 1", Digest: "sha256:x", Config: ImageConfig{Workdir: "/srv/app"}}
	root := registrytest.Tar(t, registrytest.File("f", "f"), registrytest.File(".wh.f", "a file like any other"),
		registrytest.File("big", strings.Repeat("x", 3<<20)))
	var read int
	im, err := s.FromTar(t.Context(), bytes.NewReader(root), TarOptions{SourceHash: "steps", Origin: origin, Progress: func(p Progress) {
		if p.Bytes {
			read = p.Done
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if read < 3<<20 || read > len(root) {
		t.Errorf("progress ended with %d bytes", read)
	}
	found, err := s.Find("steps")
	if err != nil || found.ID != im.ID || found.Origin.Reference != "build 1" {
		t.Errorf("%+v, %v", found, err)
	}
	dir := mounted(t, s, im.ID)
	if readFile(t, dir+"/f")+readFile(t, dir+"/.wh.f") != "fa file like any other" {
		t.Error("the files are not as they were")
	}
	if info, err := os.Stat(dir + "/srv/app"); err != nil || !info.IsDir() {
		t.Errorf("the working directory: %v", err)
	}
	if again, err := s.FromTar(t.Context(), bytes.NewReader(root), TarOptions{Origin: origin}); err != nil || len(again.SourceHashes) != 0 {
		t.Errorf("%+v, %v", again, err)
	}

	s = openStore(t, t.TempDir(), Options{Limits: Limits{Limits: unpack.Limits{Entries: 3}}})
	_, err = s.FromTar(t.Context(), bytes.NewReader(registrytest.Tar(t, registrytest.File("../f", ""))), TarOptions{})
	wantCode(t, err, CodeUnsafe, "the root file system: ../f")
	_, err = s.FromTar(t.Context(), bytes.NewReader(registrytest.Tar(t, registrytest.File("a", ""), registrytest.File("b", ""), registrytest.File("c", ""), registrytest.File("d", ""))), TarOptions{})
	wantCode(t, err, CodeTooLarge, "more than 3 entries")
	_, err = s.FromTar(t.Context(), iotestErr{}, TarOptions{})
	if _, ok := errors.AsType[*BuildError](err); !ok || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("a reader that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = s.FromTar(ctx, bytes.NewReader(root), TarOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	checkNothingLeft(t, s)
}
