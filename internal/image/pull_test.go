package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/superserve/superserve/internal/image/registrytest"
	"github.com/superserve/superserve/internal/image/unpack"
)

// noKeychain keeps the credentials of whoever runs the tests out of them.
func noKeychain(t *testing.T) {
	for _, name := range []string{"HOME", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		t.Setenv(name, t.TempDir())
	}
	t.Setenv("REGISTRY_AUTH_FILE", "")
}

func pull(t *testing.T, s *Store, reference string) Pulled {
	t.Helper()
	p, err := s.Pull(t.Context(), reference, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// mounted mounts an image and returns its root.
func mounted(t *testing.T, s *Store, id string) string {
	t.Helper()
	root, err := s.Mount(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func wantCode(t *testing.T, err error, code Code, words string) {
	t.Helper()
	failed, ok := errors.AsType[*Error](err)
	if !ok || failed.Code != code || !strings.Contains(failed.Message(), words) {
		t.Errorf("got %v, want %s with %q", err, code, words)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// layersThere lists the names in the layer cache.
func layersThere(t *testing.T, s *Store) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.dir, layersDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestPull(t *testing.T) {
	noKeychain(t)
	var blobs atomic.Int32
	reg := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	base := registrytest.Layer(t, registrytest.File("etc/os-release", "ID=test\n"), registrytest.File("gone", "x"), registrytest.File("srv/a", "a"))
	top := registrytest.Layer(t, registrytest.File(".wh.gone", ""), registrytest.File("srv/b", "b"))
	config := v1.Config{
		Env: []string{"PATH=/usr/bin:/bin", "EMPTY=", "A.B=not for a shell", "X=a=b"}, User: "1000:1000", WorkingDir: "/srv/app/",
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve", "--now"},
	}
	other := registrytest.ImageFor(t, "linux/s390x", v1.Config{}, base)
	img := registrytest.Image(t, config, base, base, top) // one layer twice
	ref, _ := reg.Push(t, "team/app:v1", registrytest.Index(t, other, img))

	s := openStore(t, t.TempDir(), Options{})
	var steps []string
	var last Progress
	p, err := s.Pull(t.Context(), ref, PullOptions{Progress: func(p Progress) {
		if len(steps) == 0 || steps[len(steps)-1] != p.Step {
			steps = append(steps, p.Step)
		}
		if p.Step == stepDownload {
			last = p
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := ImageConfig{
		Env: map[string]string{"PATH": "/usr/bin:/bin", "EMPTY": "", "X": "a=b"}, User: "1000:1000", Workdir: "/srv/app",
		Entrypoint: []string{"/entry"}, Cmd: []string{"serve", "--now"},
	}
	if digest, _ := img.Digest(); p.Digest != digest.String() || !reflect.DeepEqual(p.Config, want) {
		t.Errorf("%+v", p)
	}
	if fmt.Sprint(steps) != fmt.Sprint([]string{stepResolve, stepWait, stepDownload, stepFix, stepPack, stepCommit}) || !last.Bytes || last.Done != last.Total || last.Total == 0 {
		t.Errorf("steps %q, the last of the download %+v", steps, last)
	}
	root := mounted(t, s, p.Image.ID)
	if got := readFile(t, root+"/srv/a") + readFile(t, root+"/srv/b"); got != "ab" {
		t.Errorf("files hold %q", got)
	}
	if _, err := os.Stat(root + "/gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the whiteout: %v", err)
	}
	if info, err := os.Stat(root + "/srv/app"); err != nil || !info.IsDir() {
		t.Errorf("the working directory: %v", err)
	}

	// What is recorded, and found again: by tag and by digest, without a layer being asked for.
	im, err := s.Image(p.Image.ID)
	if err != nil || im.Origin == nil || im.Origin.Reference != ref || im.Origin.Digest != p.Digest || len(im.Origin.Layers) != 3 || !reflect.DeepEqual(im.Origin.Config, want) {
		t.Errorf("recorded: %+v, %v", im.Origin, err)
	}
	asked := blobs.Load()
	for _, again := range []string{ref, reg.Host + "/team/app@" + p.Digest} {
		if got := pull(t, s, again); got.Image.ID != p.Image.ID || !reflect.DeepEqual(got.Config, want) {
			t.Errorf("%s: %+v", again, got)
		}
	}
	if n := blobs.Load() - asked; n != 2 { // the configurations
		t.Errorf("%d blobs were asked for again", n)
	}
	// A rebuild from the cached layers asks for none of them either.
	if err := s.Remove(t.Context(), p.Image.ID); err != nil {
		t.Fatal(err)
	}
	pull(t, s, ref)
	if n := blobs.Load() - asked; n != 3 {
		t.Errorf("%d blobs were asked for though the layers are cached", n)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, buildDir)); err != nil || len(left) > 0 || strings.Contains(layersThere(t, s), partialSuffix) {
		t.Errorf("left over: %v, %s", left, layersThere(t, s))
	}
}

func TestPullPlatforms(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, nil)
	layer := registrytest.Layer(t, registrytest.File("f", "f"))
	s := openStore(t, t.TempDir(), Options{})
	s390, riscv := registrytest.ImageFor(t, "linux/s390x", v1.Config{}, layer), registrytest.ImageFor(t, "linux/riscv64", v1.Config{}, layer)
	windows := registrytest.ImageFor(t, "windows/"+runtime.GOARCH, v1.Config{}, layer)
	index, _ := reg.Push(t, "multi", registrytest.Index(t, s390, riscv, windows))
	single, _ := reg.Push(t, "single", s390)
	nothing, _ := reg.Push(t, "nothing", registrytest.ImageFor(t, "", v1.Config{}, layer))

	_, err := s.Pull(t.Context(), index, PullOptions{})
	wantCode(t, err, CodeUnsupportedPlatform, "linux/"+runtime.GOARCH+" is needed; the reference has only linux/riscv64, linux/s390x, windows/"+runtime.GOARCH)
	_, err = s.Pull(t.Context(), single, PullOptions{})
	wantCode(t, err, CodeUnsupportedPlatform, "only linux/s390x")
	_, err = s.Pull(t.Context(), nothing, PullOptions{})
	wantCode(t, err, CodeUnsupportedPlatform, "does not say what it is for")
	_, err = s.Pull(t.Context(), index, PullOptions{Platform: "plan9/mips"})
	wantCode(t, err, CodeUnsupportedPlatform, "plan9/mips")
	if p, err := s.Pull(t.Context(), index, PullOptions{Platform: "linux/s390x"}); err != nil || p.Image.ID == "" {
		t.Errorf("asked for by name: %v", err)
	}
	// An index that lies about its image.
	host := registrytest.Image(t, v1.Config{}, layer)
	lie, _ := reg.Push(t, "lie", mutate.AppendManifests(registrytest.Index(t, s390), mutate.IndexAddendum{
		Add: riscv, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
	}))
	_, err = s.Pull(t.Context(), lie, PullOptions{})
	wantCode(t, err, CodeUnsupportedPlatform, "only linux/riscv64")
	// Indexes in an index, as some tools write them.
	nested := mutate.AppendManifests(registrytest.Index(t), mutate.IndexAddendum{Add: registrytest.Index(t, host), Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, MediaType: types.OCIImageIndex,
	}})
	ref, _ := reg.Push(t, "nested", nested)
	if digest, _ := host.Digest(); pull(t, s, ref).Digest != digest.String() {
		t.Error("the index in an index was not followed")
	}
	deep := nested
	for range 3 {
		deep = mutate.AppendManifests(registrytest.Index(t), mutate.IndexAddendum{Add: deep})
	}
	ref, _ = reg.Push(t, "deep", deep)
	_, err = s.Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodePullFailed, "indexes within indexes")
}

func TestPullRefusesOtherThings(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, nil)
	layer := registrytest.Layer(t, registrytest.File("f", "f"))
	s := openStore(t, t.TempDir(), Options{})
	img := registrytest.Image(t, v1.Config{}, layer)
	chart, _ := reg.Push(t, "chart", mutate.ConfigMediaType(img, "application/vnd.cncf.helm.config.v1+json"))
	_, err := s.Pull(t.Context(), chart, PullOptions{})
	wantCode(t, err, CodePullFailed, "not a container image")
	_, err = s.Pull(t.Context(), reg.Host+"/no/such:thing", PullOptions{})
	wantCode(t, err, CodePullFailed, "no such image or tag")
	_, err = s.Pull(t.Context(), "127.0.0.1:1/x", PullOptions{})
	wantCode(t, err, CodePullFailed, "could not be reached")
	for _, bad := range []string{"", "UPPER/case", "http://" + reg.Host + "/x", "a b", "x@sha256:12", "x:" + strings.Repeat("t", 200), strings.Repeat("x/", 300), "-", "x:y:z", "\x00"} {
		_, err := s.Pull(t.Context(), bad, PullOptions{})
		wantCode(t, err, CodeBadReference, "use a form such as alpine")
		wantCode(t, ValidateReference(bad), CodeBadReference, "")
	}
}

func TestReferences(t *testing.T) {
	for reference, want := range map[string]string{
		"alpine":                          "https index.docker.io/library/alpine:latest",
		"docker.io/library/python:3.12":   "https index.docker.io/library/python:3.12",
		"team/app:v1":                     "https index.docker.io/team/app:v1",
		"registry.example.com/a/b/c":      "https registry.example.com/a/b/c:latest",
		"registry.example.com:5000/a:v_1": "https registry.example.com:5000/a:v_1",
		"localhost:5000/a":                "http localhost:5000/a:latest",
		"localhost/a":                     "http localhost/a:latest",
		"127.0.0.1:5000/a":                "http 127.0.0.1:5000/a:latest",
		"127.9.9.9:5000/a":                "http 127.9.9.9:5000/a:latest",
		"[::1]:5000/a":                    "http [::1]:5000/a:latest",
	} {
		ref, err := parseReference(reference)
		if err != nil {
			t.Errorf("%s: %v", reference, err)
		} else if got := ref.Context().Scheme() + " " + ref.Name(); got != want {
			t.Errorf("%s is %s, want %s", reference, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, registrytest.BasicAuth("robot", "secret"))
	ref, _ := reg.Push(t, "private", registrytest.Image(t, v1.Config{}, registrytest.Layer(t, registrytest.File("f", "f"))))
	file := func(dir, password string) string {
		name := filepath.Join(dir, "config.json")
		auth := base64.StdEncoding.EncodeToString([]byte("robot:" + password))
		if err := os.WriteFile(name, fmt.Appendf(nil, `{"auths": {%q: {"auth": %q}}}`, reg.Host, auth), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, c := range map[string]struct {
		options Options
		given   *Credentials
		own     string // password in the account's own file
		allowed bool
	}{
		"none":                      {},
		"given":                     {given: &Credentials{"robot", "secret"}, allowed: true},
		"given, wrong":              {given: &Credentials{"robot", "guess"}, own: "secret"},
		"operator's":                {options: Options{RegistryConfig: file(t.TempDir(), "secret")}, own: "wrong", allowed: true},
		"operator's, wrong":         {options: Options{RegistryConfig: file(t.TempDir(), "wrong")}, own: "secret"},
		"account's":                 {own: "secret", allowed: true},
		"operator's has another":    {options: Options{RegistryConfig: otherRegistry(t)}, own: "secret", allowed: true},
		"operator's is not there":   {options: Options{RegistryConfig: "/no/such/file"}, own: "secret"},
		"given over the operator's": {options: Options{RegistryConfig: "/no/such/file"}, given: &Credentials{"robot", "secret"}, allowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			if c.own != "" {
				file(dir, c.own)
			}
			_, err := openStore(t, t.TempDir(), c.options).Pull(t.Context(), ref, PullOptions{Credentials: c.given})
			if c.allowed && err != nil {
				t.Error(err)
			}
			if !c.allowed {
				wantCode(t, err, CodePullFailed, "")
			}
			if failed, ok := errors.AsType[*Error](err); ok && (strings.Contains(failed.Message(), "/no/such") || strings.Contains(failed.Error(), "secret")) {
				t.Errorf("the error tells too much: %v", err)
			}
		})
	}
}

func otherRegistry(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(`{"auths": {"registry.example.com": {"auth": "eDp5"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestPullLimits(t *testing.T) {
	noKeychain(t)
	var downloaded atomic.Int32
	reg := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				downloaded.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	layer := registrytest.Layer(t, registrytest.File("f", strings.Repeat("x", 1<<20)))
	ref, _ := reg.Push(t, "big", registrytest.Image(t, v1.Config{}, layer, layer))
	for name, limits := range map[string]Limits{
		"layers": {Layers: 1}, "download": {DownloadBytes: 100}, "bytes": {Limits: unpack.Limits{Bytes: 1 << 20}}, "entries": {Limits: unpack.Limits{Entries: 1}},
	} {
		downloaded.Store(0)
		s := openStore(t, t.TempDir(), Options{Limits: limits})
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		wantCode(t, err, CodeTooLarge, "")
		if before := downloaded.Load() == 1; before != (name == "layers" || name == "download") {
			t.Errorf("%s: %d blobs were asked for", name, downloaded.Load())
		}
		checkNothingLeft(t, s)
	}
	manyVars := v1.Config{Env: make([]string, 300)}
	for i := range manyVars.Env {
		manyVars.Env[i] = fmt.Sprintf("V%d=x", i)
	}
	ref, _ = reg.Push(t, "vars", registrytest.Image(t, manyVars, layer))
	_, err := openStore(t, t.TempDir(), Options{}).Pull(t.Context(), ref, PullOptions{})
	wantCode(t, err, CodeTooLarge, "256 variables")
}

func TestPullFromWhereTheOperatorDoesNotAllow(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the registry was asked") })
	})
	s := openStore(t, t.TempDir(), Options{PrivateRegistries: []string{"registry.corp.example"}})
	_, err := s.Pull(t.Context(), reg.Host+"/app:1", PullOptions{})
	wantCode(t, err, CodePullFailed, "private-registries")
}

func TestPullUnsafeImage(t *testing.T) {
	noKeychain(t)
	reg := registrytest.New(t, nil)
	good := registrytest.Layer(t, registrytest.File("f", "f"))
	for name, bad := range map[string]v1.Layer{
		"dots":   registrytest.Layer(t, registrytest.File("../f", "f")),
		"early":  registrytest.Layer(t, registrytest.File("../f", "f"), registrytest.File("large", randomText(3, 20<<20))),
		"no tar": registrytest.LayerOf(t, []byte(strings.Repeat("this is not a tar ", 100))),
	} {
		s := openStore(t, t.TempDir(), Options{})
		ref, _ := reg.Push(t, "bad", registrytest.Image(t, v1.Config{}, good, bad))
		_, err := s.Pull(t.Context(), ref, PullOptions{})
		wantCode(t, err, CodeUnsafe, "layer 2: ")
		if err != nil && strings.Contains(err.Error(), s.dir) {
			t.Errorf("%s: the error names a path of the host: %v", name, err)
		}
		checkNothingLeft(t, s)
	}
}

func TestPullCancelled(t *testing.T) {
	noKeychain(t)
	asked := make(chan struct{}, 10)
	stop := make(chan struct{})
	defer close(stop)
	reg := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") && r.Header.Get("Range") == "" && asked != nil {
				select {
				case asked <- struct{}{}:
				default:
				}
				if len(asked) > 1 { // the first is the configuration
					select {
					case <-r.Context().Done():
					case <-stop:
					}
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	})
	ref, _ := reg.Push(t, "slow", registrytest.Image(t, v1.Config{}, registrytest.Layer(t, registrytest.File("f", "f"))))
	s := openStore(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(asked) < 2 {
			runtime.Gosched()
		}
		cancel()
	}()
	_, err := s.Pull(ctx, ref, PullOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantCode(t, err, CodePullFailed, "cancelled")
	checkNothingLeft(t, s)
}

// A registry that holds back a layer which others have too does not hold up pulls of it from those.
func TestSlowRegistryHoldsUpNobodyElse(t *testing.T) {
	noKeychain(t)
	img := registrytest.Image(t, v1.Config{}, registrytest.Layer(t, registrytest.File("f", "f")))
	layers, _ := img.Layers()
	digest, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 1)
	slow := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, digest.String()) {
				asked <- struct{}{}
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	held, _ := slow.Push(t, "app", img)
	good, _ := registrytest.New(t, nil).Push(t, "app", img)
	s := openStore(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := s.Pull(ctx, held, PullOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("the slow registry gave the image: %v", err)
		}
	})
	<-asked
	pull(t, s, good)
	cancel()
	wait.Wait()
}

// Pulls of the same image at the same time download and pack it once; those of other images do not wait.
func TestPullsAtTheSameTime(t *testing.T) {
	noKeychain(t)
	var blobs sync.Map
	reg := registrytest.New(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				n, _ := blobs.LoadOrStore(r.URL.Path, new(atomic.Int32))
				n.(*atomic.Int32).Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	shared := registrytest.Layer(t, registrytest.File("shared", strings.Repeat("s", 1<<20)))
	one, _ := reg.Push(t, "one", registrytest.Image(t, v1.Config{}, shared, registrytest.Layer(t, registrytest.File("one", "1"))))
	two, _ := reg.Push(t, "two", registrytest.Image(t, v1.Config{}, shared, registrytest.Layer(t, registrytest.File("two", "2"))))
	dir := t.TempDir()
	stores := []*Store{openStore(t, dir, Options{}), openStore(t, dir, Options{})} // as two processes
	ids := make([]string, 8)
	var wait sync.WaitGroup
	for i := range ids {
		wait.Go(func() {
			p, err := stores[i/4].Pull(t.Context(), []string{one, two}[i%2], PullOptions{})
			if err != nil {
				t.Error(err)
			}
			ids[i] = p.Image.ID
		})
	}
	wait.Wait()
	if all, err := stores[0].List(); err != nil || len(all) > 4 { // each of the two stores may make both
		t.Errorf("%d images were made, %v", len(all), err)
	}
	for i, id := range ids {
		if root := mounted(t, stores[0], id); readFile(t, root+"/"+[]string{"one", "two"}[i%2]) != []string{"1", "2"}[i%2] {
			t.Errorf("pull %d got the wrong image", i)
		}
	}
	digest, _ := shared.Digest()
	downloads := int32(0)
	blobs.Range(func(path, n any) bool {
		if strings.HasSuffix(path.(string), digest.String()) {
			downloads += n.(*atomic.Int32).Load()
		}
		return true
	})
	if downloads != 1 {
		t.Errorf("the shared layer was downloaded %d times", downloads)
	}
}
