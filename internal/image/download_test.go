package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/internal/image/registrytest"
)

// randomText does not compress, so that a layer has about its size.
func randomText(seed uint64, size int) string {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, size)
	_, _ = r.Read(b)
	return string(b)
}

// faulty is a registry's handler with faults in the answers for one blob.
type faulty struct {
	mu     sync.Mutex
	digest string
	ranges []string // of the requests for it
	// serve answers a request for the blob; whole serves it as the registry would. nil means whole.
	serve func(w http.ResponseWriter, r *http.Request, n int, whole http.Handler)
}

func (f *faulty) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		hit, serve, n := f.digest != "" && strings.HasSuffix(r.URL.Path, "/blobs/"+f.digest), f.serve, len(f.ranges)
		if hit {
			f.ranges = append(f.ranges, r.Header.Get("Range"))
		}
		f.mu.Unlock()
		if hit && serve != nil {
			serve(w, r, n, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// breaking writes at most left bytes of the body and then cuts the connection.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	if _, err := b.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if b.left == 0 {
		if err := http.NewResponseController(b.ResponseWriter).Flush(); err != nil {
			return 0, err
		}
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// faultyImage pushes an image with one layer of 3 MiB, whose downloads f.serve answers.
func faultyImage(t *testing.T, f *faulty) (ref string, layer v1.Layer, hex string) {
	t.Helper()
	noKeychain(t)
	reg := registrytest.New(t, f.wrap)
	layer = registrytest.Layer(t, registrytest.File("f", randomText(1, 3<<20)))
	ref, _ = reg.Push(t, "app", registrytest.Image(t, v1.Config{}, layer))
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	f.digest = digest.String()
	return ref, layer, digest.Hex
}

func TestDownloadGoesOnAfterBreaks(t *testing.T) {
	f := &faulty{serve: func(w http.ResponseWriter, r *http.Request, n int, whole http.Handler) {
		if n < 4 {
			w = &breaking{w, 600_000}
		}
		whole.ServeHTTP(w, r)
	}}
	ref, layer, _ := faultyImage(t, f)
	size, err := layer.Size()
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, t.TempDir(), Options{})
	root := mounted(t, s, pull(t, s, ref).Image.ID)
	if readFile(t, root+"/f") != randomText(1, 3<<20) {
		t.Error("the file is another")
	}
	want := []string{""}
	for i := 1; i < 5; i++ {
		want = append(want, fmt.Sprintf("bytes=%d-%d", i*600_000, size-1))
	}
	if fmt.Sprint(f.ranges) != fmt.Sprint(want) {
		t.Errorf("ranges asked for: %q", f.ranges)
	}
}

// A registry that knows no ranges, or gives the wrong one, is asked from the beginning.
func TestDownloadWithoutRanges(t *testing.T) {
	for name, second := range map[string]func(w http.ResponseWriter, r *http.Request, whole http.Handler){
		"ignored": func(w http.ResponseWriter, r *http.Request, whole http.Handler) {
			r.Header.Del("Range")
			whole.ServeHTTP(w, r)
		},
		"refused": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		},
		"another": func(w http.ResponseWriter, r *http.Request, whole http.Handler) {
			r.Header.Set("Range", "bytes=5-100")
			whole.ServeHTTP(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &faulty{serve: func(w http.ResponseWriter, r *http.Request, n int, whole http.Handler) {
				switch n {
				case 0:
					whole.ServeHTTP(&breaking{w, 600_000}, r)
				case 1:
					second(w, r, whole)
				default:
					whole.ServeHTTP(w, r)
				}
			}}
			ref, _, _ := faultyImage(t, f)
			s := openStore(t, t.TempDir(), Options{})
			pull(t, s, ref)
		})
	}
}

func TestDownloadOfLies(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(w http.ResponseWriter, r *http.Request, n int, whole http.Handler)
		words string
	}{
		"other bytes": {func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100))
		}, "failed"},
		"same size": {nil, errMismatch.Error()}, // set below
		"endless": {func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}, "larger layer than the manifest says"},
		"gone": {func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			w.WriteHeader(http.StatusNotFound)
		}, "no such image"},
		"denied": {func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			w.WriteHeader(http.StatusForbidden)
		}, "access denied"},
		"broken": {func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
			http.Error(w, "the text of an internal server, not for tenants", http.StatusInternalServerError)
		}, "HTTP status 500"},
		"redirect away": {func(w http.ResponseWriter, r *http.Request, _ int, _ http.Handler) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		}, "must not use"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &faulty{serve: c.serve}
			ref, layer, hex := faultyImage(t, f)
			if c.serve == nil {
				size, _ := layer.Size()
				f.serve = func(w http.ResponseWriter, _ *http.Request, _ int, _ http.Handler) {
					_, _ = w.Write(make([]byte, size))
				}
			}
			s := openStore(t, t.TempDir(), Options{})
			_, err := s.Pull(t.Context(), ref, PullOptions{})
			wantCode(t, err, CodePullFailed, c.words)
			if failed, ok := errors.AsType[*Error](err); ok && strings.Contains(failed.Message(), "internal server") {
				t.Errorf("the answer reached the tenant: %s", failed.Message())
			}
			if _, err := os.Stat(s.layerPath(hex)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a wrong layer is in the cache: %v", err)
			}
			checkNothingLeft(t, s)
		})
	}
}

func TestManifestLies(t *testing.T) {
	noKeychain(t)
	layer := registrytest.Layer(t, registrytest.File("f", "f"))
	img := registrytest.Image(t, v1.Config{}, layer)
	other := registrytest.Image(t, v1.Config{User: "other"}, layer)
	var replace sync.Map // path suffix to bytes
	reg := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if data, ok := replace.Load(r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]); ok {
				w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v2+json")
				_, _ = w.Write(data.([]byte))
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	ref, digest := reg.Push(t, "app", img)
	reg.Push(t, "app:other", other)
	s := openStore(t, t.TempDir(), Options{})

	manifest, _ := other.RawManifest()
	replace.Store(digest, manifest)
	_, err := s.Pull(t.Context(), reg.Host+"/app@"+digest, PullOptions{})
	wantCode(t, err, CodePullFailed, "fetching the manifest")
	config, _ := img.ConfigName()
	data, _ := other.RawConfigFile()
	replace.Store(config.String(), data)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodePullFailed, "another configuration")
	replace.Store("latest", []byte("{"))
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodePullFailed, "not valid JSON")
	replace.Store("latest", []byte(`{"layers":[`+strings.Repeat("0,", 1<<20)+`0]}`))
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodeTooLarge, "elements")
	replace.Store("latest", bytes.Repeat([]byte(" "), maxAnswer+1))
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodePullFailed, "more than")
	checkNothingLeft(t, s)
}

func registryOf(reference string) string {
	registry, _, _ := strings.Cut(reference, "/")
	return registry
}

// What an earlier process left is gone on with when it is right, and thrown away when it is not.
func TestPartialOfAnEarlierProcess(t *testing.T) {
	for name, c := range map[string]struct {
		left func(layer []byte) []byte
		want string // the beginnings of the ranges asked for
	}{
		"good":     {func(l []byte) []byte { return l[:1_000_000] }, "bytes=1000000"},
		"complete": {func(l []byte) []byte { return l }, ""},
		"damaged":  {func(_ []byte) []byte { return bytes.Repeat([]byte("x"), 1_000_000) }, "bytes=1000000,all"},
		"too long": {func(l []byte) []byte { return append(bytes.Clone(l), "more"...) }, "all"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &faulty{}
			ref, layer, hex := faultyImage(t, f)
			body, err := layer.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			var data bytes.Buffer
			if _, err := data.ReadFrom(body); err != nil {
				t.Fatal(err)
			}
			s := openStore(t, t.TempDir(), Options{})
			if err := os.WriteFile(s.partialPath(registryOf(ref), hex), c.left(data.Bytes()), 0o600); err != nil {
				t.Fatal(err)
			}
			pull(t, s, ref)
			var asked []string
			for _, r := range f.ranges {
				from, _, _ := strings.Cut(r, "-")
				asked = append(asked, cmp.Or(from, "all"))
			}
			if strings.Join(asked, ",") != c.want || layersThere(t, s) != hex {
				t.Errorf("asked for %q, the cache has %s", f.ranges, layersThere(t, s))
			}
		})
	}
}

func TestDamagedLayerInTheCache(t *testing.T) {
	f := &faulty{}
	ref, _, hex := faultyImage(t, f)
	s := openStore(t, t.TempDir(), Options{})
	im := pull(t, s, ref)
	if err := s.Remove(t.Context(), im.Image.ID); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(s.layerPath(hex), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("damage"), 1_000_000); err != nil {
		t.Fatal(err)
	}
	file.Close()
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodePullFailed, "was damaged and has been removed")
	pull(t, s, ref)
	if err := os.Truncate(s.layerPath(hex), 10); err != nil {
		t.Fatal(err)
	}
	s2 := openStore(t, t.TempDir(), Options{})
	if err := os.Rename(s.layerPath(hex), s2.layerPath(hex)); err != nil {
		t.Fatal(err)
	}
	pull(t, s2, ref) // one of another size is no layer at all
}

// A manifest that lies about a layer's size does not take the layer away from other images.
func TestLieAboutTheSizeOfACachedLayer(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, nil)
	layer := registrytest.Layer(t, registrytest.File("f", "f"))
	img := registrytest.Image(t, v1.Config{}, layer)
	ref, _ := reg.Push(t, "app", img)
	s := openStore(t, t.TempDir(), Options{})
	if err := s.Remove(t.Context(), pull(t, s, ref).Image.ID); err != nil {
		t.Fatal(err)
	}
	hex := layersThere(t, s)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	m.Layers[0].Size++
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+reg.Host+"/v2/app/manifests/lie", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	put.Header.Set("Content-Type", string(m.MediaType))
	if answer, err := reg.RoundTrip(put); err != nil || answer.StatusCode != http.StatusCreated {
		t.Fatalf("%+v, %v", answer, err)
	}
	_, err = s.Pull(t.Context(), reg.Host+"/app:lie", PullOptions{})
	wantCode(t, err, CodePullFailed, "another size")
	if got := layersThere(t, s); got != hex {
		t.Errorf("the cache has %q, want %q", got, hex)
	}
}

// TestHelperPull is not a test: TestPullKilled runs it as the process to be killed.
func TestHelperPull(t *testing.T) {
	dir := os.Getenv("SUPERSERVE_HELPER_DIR")
	if dir == "" {
		return
	}
	s, err := Open(dir, Options{})
	if err == nil {
		_, err = s.Pull(context.Background(), os.Getenv("SUPERSERVE_HELPER_REFERENCE"), PullOptions{Progress: func(p Progress) {
			if p.Step == os.Getenv("SUPERSERVE_HELPER_STEP") && p.Done > 0 == p.Bytes {
				fmt.Println("reached")
				select {}
			}
		}})
	}
	t.Fatalf("the pull ended: %v", err)
}

// A pull that is killed in any phase leaves no image, and nothing that the next start does not remove or use.
func TestPullKilled(t *testing.T) {
	for _, step := range []string{stepDownload, stepFix, stepPack, stepCommit} {
		t.Run(step, func(t *testing.T) {
			f := &faulty{}
			ref, _, hex := faultyImage(t, f)
			dir := t.TempDir()
			cmd := exec.Command(os.Args[0], "-test.run=^TestHelperPull$")
			cmd.Env = append(os.Environ(), "SUPERSERVE_HELPER_DIR="+dir, "SUPERSERVE_HELPER_REFERENCE="+ref, "SUPERSERVE_HELPER_STEP="+step)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 100)
			n, _ := out.Read(line)
			if !strings.HasPrefix(string(line[:n]), "reached") {
				t.Errorf("the helper said %q", line[:n])
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			s := openStore(t, dir, Options{})
			checkNothingLeft(t, s)
			// Reports come after bytes were written, so a part of the layer, or all of it, is there.
			if there := layersThere(t, s); there != hex && there != filepath.Base(s.partialPath(registryOf(ref), hex)) {
				t.Errorf("the cache has %s", there)
			}
			f.mu.Lock()
			f.ranges = nil
			f.mu.Unlock()
			root := mounted(t, s, pull(t, s, ref).Image.ID)
			if readFile(t, root+"/f") != randomText(1, 3<<20) {
				t.Error("the file is another")
			}
			if len(f.ranges) > 0 && f.ranges[0] == "" {
				t.Error("the layer was downloaded from the beginning again")
			}
		})
	}
}

func TestPruneLayers(t *testing.T) {
	noKeychain(t)
	s := openStore(t, t.TempDir(), Options{})
	names := make([]string, 5)
	for i := range names {
		names[i] = strings.Repeat(fmt.Sprint(i), 64)
		if err := os.WriteFile(s.layerPath(names[i]), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(s.layerPath(names[i]), used, used); err != nil {
			t.Fatal(err)
		}
	}
	old, young, busy := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	for name, age := range map[string]time.Duration{old: 25 * time.Hour, young: time.Hour, busy: 25 * time.Hour} {
		if name == busy {
			lock, err := s.lockPartial(t.Context(), "r", busy)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { lock.Close() })
		}
		file := s.partialPath("r", name)
		if err := os.WriteFile(file, make([]byte, 7), 0o600); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(-age)
		if err := os.Chtimes(file, used, used); err != nil {
			t.Fatal(err)
		}
	}
	// Used now, so the youngest.
	f, err := s.openLayer(names[1], 100)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	freed, err := s.PruneLayers([]string{"sha256:" + names[0]}, 250)
	if err != nil || freed != 307 {
		t.Errorf("freed %d, %v", freed, err)
	}
	want := strings.Join([]string{names[0], names[1], filepath.Base(s.partialPath("r", young)), filepath.Base(s.partialPath("r", busy))}, " ")
	if got := layersThere(t, s); got != want {
		t.Errorf("left %s", got)
	}
	// Broken downloads count, and the oldest goes first, whatever it is.
	if freed, err = s.PruneLayers(nil, 206); err != nil || freed != 100 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if freed, err = s.PruneLayers(nil, 0); err != nil || freed != 107 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if got := layersThere(t, s); got != filepath.Base(s.partialPath("r", busy)) {
		t.Errorf("left %s", got)
	}
	if n, err := f.Read(make([]byte, 200)); n != 100 || err != nil {
		t.Errorf("a layer that was open and then removed: %d, %v", n, err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, layersDir)); err != nil {
		t.Error(err)
	}
}
