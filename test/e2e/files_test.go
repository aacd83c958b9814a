package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/superserve/superserve/client"
)

func TestFiles(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	ctx := t.Context()
	b.write("/home/user/a/one.txt", "first")
	b.write("/home/user/a/one.txt", "second")
	if got := b.read("/home/user/a/one.txt"); got != "second" {
		t.Errorf("overwritten file holds %q", got)
	}
	if err := b.data.Mkdir(ctx, "/home/user/a/b/c"); err != nil {
		t.Error(err)
	}
	if err := b.data.Move(ctx, "/home/user/a/one.txt", "/home/user/a/b/two.txt"); err != nil {
		t.Error(err)
	}
	list, err := b.data.ListFiles(ctx, "/home/user/a", 2)
	if err != nil || len(list) != 3 {
		t.Errorf("list %+v, %v; want b, b/c and b/two.txt", list, err)
	}
	info, err := b.data.Stat(ctx, "/home/user/a/b/two.txt")
	if err != nil || info.Size != 6 || info.Type != client.TypeFile || info.Mode != "0644" {
		t.Errorf("stat %+v, %v", info, err)
	}
	if err := b.data.Remove(ctx, "/home/user/a", false); !client.IsConflict(err) {
		t.Errorf("removing a full directory: %v, want 409", err)
	}
	if err := b.data.Remove(ctx, "/home/user/a", true); err != nil {
		t.Error(err)
	}
	if _, err := b.data.Stat(ctx, "/home/user/a"); !client.IsNotFound(err) {
		t.Errorf("stat of a removed one: %v, want 404", err)
	}
	for path, code := range map[string]string{
		"relative": "bad_request", "/home/../etc/passwd": "bad_request", "/" + strings.Repeat("x", 4096): "bad_request",
		"/home/user": "is_directory", "/no/such": "not_found",
	} {
		if _, err := b.data.ReadFile(ctx, path); client.CodeOf(err) != code {
			t.Errorf("reading %.40q: %v, want %s", path, err, code)
		}
	}
}

func TestRange(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.write("/home/user/digits", "0123456789")
	res := b.fileRequest(t.Context(), http.MethodGet, "/home/user/digits", nil, map[string]string{"Range": "bytes=2-4"})
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusPartialContent || string(raw) != "234" {
		t.Errorf("%d %q %v, want 206 234", res.StatusCode, raw, err)
	}
}

func (b *box) fileRequest(ctx context.Context, method, path string, body io.Reader, header map[string]string) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, b.srv.URL+"/files?path="+url.QueryEscape(path), body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("X-Access-Token", b.AccessToken)
	req.Header.Set("X-Superserve-Sandbox-Id", b.id())
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

// An upload that is cut off halfway leaves the old file and no rest.
func TestBrokenUploadLeavesTheOldFile(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.write("/home/user/kept", "old")
	ctx, cancel := context.WithCancel(t.Context())
	half := &cutReader{after: 8 << 20, cut: cancel}
	_, err := b.data.WriteFile(ctx, "/home/user/kept", half, 64<<20)
	if err == nil {
		t.Fatal("a broken upload succeeded")
	}
	if got := b.read("/home/user/kept"); got != "old" {
		t.Errorf("the file holds %d bytes", len(got))
	}
	eventually(t, 20e9, "the temporary file is gone", func() bool { return b.sh("ls -A /home/user") == "kept" })
}

// cutReader gives zeros and breaks the request in the middle.
type cutReader struct {
	after int64
	cut   func()
}

func (r *cutReader) Read(p []byte) (int, error) {
	if r.after <= 0 {
		r.cut()
		return 0, errors.New("cut")
	}
	n := min(int64(len(p)), r.after)
	clear(p[:n])
	r.after -= n
	return int(n), nil
}

// 1 GiB goes up and comes down whole, with the memory of the server and the agent flat.
func TestGibibyteBothWays(t *testing.T) {
	const size = 1 << 30
	b := shared.create(t)
	agentBefore, serverBefore := b.agentMiB(), shared.residentMiB(t)
	up := newRandom(size)
	if _, err := b.data.WriteFile(t.Context(), "/home/user/big", up, size); err != nil {
		t.Fatal(err)
	}
	down, err := b.data.ReadFile(t.Context(), "/home/user/big")
	if err != nil {
		t.Fatal(err)
	}
	defer down.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, down)
	if err != nil || n != size || down.Size != size {
		t.Fatalf("read %d of %d bytes, %v", n, down.Size, err)
	}
	if !bytes.Equal(sum.Sum(nil), up.sum.Sum(nil)) {
		t.Error("the content changed on the way")
	}
	agent, server := b.agentMiB()-agentBefore, shared.residentMiB(t)-serverBefore
	t.Logf("the agent grew by %d MiB, the server by %d MiB", agent, server)
	if agent > 64 || server > 100 {
		t.Errorf("memory grew: agent %d MiB, server %d MiB", agent, server)
	}
}

// random is a reproducible stream that hashes what was read of it.
type random struct {
	src  *rand.ChaCha8
	left int64
	sum  hash.Hash
}

func newRandom(size int64) *random {
	return &random{src: rand.NewChaCha8([32]byte{1}), left: size, sum: sha256.New()}
}

func (r *random) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), r.left)]
	n, err := r.src.Read(p)
	r.left -= int64(n)
	r.sum.Write(p[:n])
	return n, err
}

// agentMiB is the resident memory of boxd, which is process 1 inside.
func (b *box) agentMiB() int {
	b.t.Helper()
	return rssMiB(b.t, b.sh("cat /proc/1/status"))
}

func (s *server) residentMiB(t testing.TB) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return rssMiB(t, string(raw))
}

func rssMiB(t testing.TB, status string) int {
	t.Helper()
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib >> 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
