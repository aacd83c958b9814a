package e2e

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

// startCounter leaves a program behind that writes an ever higher number into /home/user/count.
const startCounter = `cat > /home/user/counter.py <<'P'
import time, os
n = 0
while True:
    n += 1
    with open("/home/user/count.new", "w") as f: f.write(str(n))
    os.rename("/home/user/count.new", "/home/user/count")
    time.sleep(0.02)
P
nohup python3 /home/user/counter.py >/dev/null 2>&1 &
while [ ! -e /home/user/count ]; do sleep 0.01; done`

func (b *box) count() int {
	b.t.Helper()
	n, err := strconv.Atoi(b.sh("cat /home/user/count"))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func (b *box) assertCounting() {
	b.t.Helper()
	before := b.count()
	eventually(b.t, 10*time.Second, "the program counts on", func() bool { return b.count() > before })
}

// The main job: create, run, write, read, pause, resume with its processes alive, delete.
func TestMainJob(t *testing.T) {
	t.Parallel()
	b := shared.create(t, func(r *client.CreateSandboxRequest) {
		r.Metadata = map[string]string{"env": "prod"}
		r.EnvVars = map[string]string{"GREETING": "hello there"}
	})
	if b.Status != client.StatusActive || b.VcpuCount != 1 || b.MemoryMib != 1024 || b.DiskMib != 4096 {
		t.Errorf("sandbox %+v, want active with 1 vCPU, 1024 MiB, 4096 MiB", b.Sandbox)
	}
	if got := b.sh(`python3 -c 'import os; print(os.environ["GREETING"], 6*7)'`); got != "hello there 42" {
		t.Errorf("python3 printed %q", got)
	}
	if got := b.sh("pwd; whoami; echo $HOME $USER $LANG"); got != "/home/user\nroot\n/root root C.UTF-8" {
		t.Errorf("environment %q", got)
	}
	b.write("/home/user/deep/down/note.txt", "grüße\n")
	if got := b.read("/home/user/deep/down/note.txt"); got != "grüße\n" {
		t.Errorf("the file holds %q", got)
	}
	b.sh(startCounter)
	old := b.AccessToken
	atPause := b.count()
	b.pause()
	paused := b.get()
	if paused.Status != client.StatusPaused || paused.SnapshotID == "" {
		t.Fatalf("after the pause %+v", paused)
	}
	b.resume()
	if b.AccessToken == old {
		t.Error("the access token did not rotate")
	}
	if n := b.count(); n < atPause {
		t.Errorf("the program counts from %d, was at %d", n, atPause)
	}
	b.assertCounting()
	if got := b.read("/home/user/deep/down/note.txt") + b.sh("echo $GREETING"); got != "grüße\nhello there\n"[:len(got)] {
		t.Errorf("after the resume %q", got)
	}
	stale, err := b.api.DataPlaneAt(shared.URL, b.id(), old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stale.Exec(t.Context(), client.ExecRequest{Command: "true"}); !client.IsUnauthorized(err) {
		t.Errorf("with the token before the resume: %v, want 401", err)
	}
	token := b.AccessToken
	if err := b.api.DeleteSandbox(t.Context(), b.id()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.api.GetSandbox(t.Context(), b.id()); !client.IsNotFound(err) {
		t.Errorf("after the delete: %v, want 404", err)
	}
	b.use(token)
	if _, err := b.data.Exec(t.Context(), client.ExecRequest{Command: "true"}); !client.IsNotFound(err) {
		t.Errorf("data plane after the delete: %v, want 404", err)
	}
	if err := b.api.DeleteSandbox(t.Context(), b.id()); !client.IsNotFound(err) {
		t.Errorf("second delete: %v, want 404", err)
	}
}

func TestWrongStateIsConflict(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	if _, err := b.api.ResumeSandbox(t.Context(), b.id()); !client.IsConflict(err) {
		t.Errorf("resume of an active one: %v, want 409", err)
	}
	b.pause()
	if err := b.api.PauseSandbox(t.Context(), b.id()); !client.IsConflict(err) {
		t.Errorf("pause of a paused one: %v, want 409", err)
	}
	rules := &client.Network{DenyOut: []string{"0.0.0.0/0"}}
	if err := b.api.PatchSandbox(t.Context(), b.id(), client.PatchSandboxRequest{Network: rules}); !client.IsConflict(err) {
		t.Errorf("network of a paused one: %v, want 409", err)
	}
	if err := b.api.PatchSandbox(t.Context(), b.id(), client.PatchSandboxRequest{Metadata: map[string]string{"a": "b"}}); err != nil {
		t.Errorf("metadata of a paused one: %v", err)
	}
}

// A data-plane call wakes a paused sandbox, many at once wake it once, and the token stays.
func TestEdgeWake(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	b.sh("echo $$ > /home/user/mark; " + startCounter)
	b.pause()
	errs := make([]error, 20)
	together(len(errs), func(i int) {
		_, errs[i] = b.data.Exec(t.Context(), client.ExecRequest{Command: "cat /home/user/mark"})
	})
	for _, err := range errs {
		if err != nil {
			t.Errorf("a waking call: %v", err)
		}
	}
	if got := b.get(); got.Status != client.StatusActive || got.AccessToken != b.AccessToken {
		t.Errorf("after the wake %s, token kept %v", got.Status, got.AccessToken == b.AccessToken)
	}
	b.assertCounting()

	b.pause()
	if res, err := b.api.Exec(t.Context(), b.id(), client.ExecRequest{Command: "echo up"}); err != nil || res.Stdout != "up\n" {
		t.Errorf("control-plane exec of a paused one: %+v, %v", res, err)
	}
	b.pause()
	sb, err := b.api.ActivateSandbox(t.Context(), b.id())
	if err != nil || sb.Status != client.StatusActive || sb.AccessToken != b.AccessToken {
		t.Errorf("activate: %+v, %v", sb, err)
	}
	if _, err := b.api.ActivateSandbox(t.Context(), b.id()); err != nil {
		t.Errorf("activate of an active one: %v", err)
	}
}

// A sandbox made from another's snapshot has its memory and disk, and is independent of it.
func TestFromSnapshot(t *testing.T) {
	t.Parallel()
	first := shared.create(t, func(r *client.CreateSandboxRequest) { r.EnvVars = map[string]string{"WHO": "first"} })
	first.sh("echo original > /home/user/file; " + startCounter)
	first.pause()
	snapshot := first.get().SnapshotID
	second := shared.create(t, func(r *client.CreateSandboxRequest) {
		r.Name, r.FromSnapshot, r.EnvVars = "second", snapshot, map[string]string{"WHO": "second"}
	})
	if second.SourceSnapshotID != snapshot {
		t.Errorf("source_snapshot_id %v, want %s", second.SourceSnapshotID, snapshot)
	}
	second.assertCounting()
	if got := second.sh("cat /home/user/file; echo $WHO"); got != "original\nsecond" {
		t.Errorf("the second has %q", got)
	}
	second.sh("echo changed > /home/user/file")
	first.resume()
	first.assertCounting()
	if got := first.sh("cat /home/user/file; echo $WHO"); got != "original\nfirst" {
		t.Errorf("the first has %q", got)
	}
	if a, b := first.sh("head -c 16 /dev/urandom | od -An -tx1"), second.sh("head -c 16 /dev/urandom | od -An -tx1"); a == b {
		t.Error("both read the same random bytes")
	}

	// The snapshot stays while the first one's row needs it, and the second lives on when the first is gone.
	if err := first.api.DeleteSandbox(t.Context(), first.id()); err != nil {
		t.Fatal(err)
	}
	second.pause()
	second.resume()
	if got := second.sh("cat /home/user/file"); got != "changed" {
		t.Errorf("after the first was deleted: %q", got)
	}
	second.assertCounting()
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const n = 12
	boxes := make([]*box, n)
	together(n, func(i int) {
		sb, err := shared.client(t).CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "many " + strconv.Itoa(i)})
		if err != nil {
			t.Error(err)
			return
		}
		boxes[i] = &box{Sandbox: sb, t: t, srv: shared, api: shared.client(t)}
		boxes[i].use(sb.AccessToken)
	})
	defer together(n, func(i int) {
		if boxes[i] != nil {
			if err := boxes[i].api.DeleteSandbox(t.Context(), boxes[i].id()); err != nil {
				t.Error(err)
			}
		}
	})
	together(n, func(i int) {
		if boxes[i] == nil {
			return
		}
		want := strconv.Itoa(i)
		if got := boxes[i].sh("echo " + want); got != want {
			t.Errorf("sandbox %d answered %q", i, got)
		}
	})
}

func TestListFilters(t *testing.T) {
	t.Parallel()
	tag := map[string]string{"test": t.Name(), "weird'\"key": "väl;ue"}
	var ids []string
	for range 3 {
		b := shared.create(t, func(r *client.CreateSandboxRequest) { r.Metadata = tag })
		ids = append([]string{b.id()}, ids...)
	}
	api := shared.client(t)
	page, total, err := api.ListSandboxes(t.Context(), client.ListSandboxesOptions{Metadata: tag, Limit: 2, Offset: 1})
	if err != nil || total != 3 || len(page) != 2 {
		t.Fatalf("page of %d, total %d, %v", len(page), total, err)
	}
	got := []string{page[0].ID, page[1].ID}
	if !slices.Equal(got, ids[1:]) {
		t.Errorf("page %v, want %v (newest first)", got, ids[1:])
	}
	if page[0].AccessToken != "" {
		t.Error("a list shows an access token")
	}
	if _, total, err := api.ListSandboxes(t.Context(), client.ListSandboxesOptions{Metadata: tag, Status: client.StatusPaused}); err != nil || total != 0 {
		t.Errorf("paused ones: %d, %v", total, err)
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	api := shared.client(t)
	req := client.CreateSandboxRequest{Name: "once", IdempotencyKey: "key of " + t.Name()}
	ids := make([]string, 5)
	together(len(ids), func(i int) {
		sb, err := api.CreateSandbox(t.Context(), req)
		if err != nil {
			t.Error(err)
			return
		}
		ids[i] = sb.ID
	})
	if slices.Sort(ids); ids[0] != ids[len(ids)-1] {
		t.Errorf("five creates with one key made %v", ids)
	}
	req.Name = "different"
	if _, err := api.CreateSandbox(t.Context(), req); !client.IsConflict(err) {
		t.Errorf("the same key with another body: %v, want 409", err)
	}
	if err := api.DeleteSandbox(t.Context(), ids[0]); err != nil {
		t.Error(err)
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	deleted := shared.createREST(t, `{"name": "deadline", "timeout_seconds": 2}`)
	paused := shared.create(t, func(r *client.CreateSandboxRequest) {
		r.TimeoutSeconds, r.TimeoutAction = ptr(2), client.TimeoutPause
	})
	gone := shared.create(t, func(r *client.CreateSandboxRequest) { r.AutoDeleteSeconds = ptr(0) })
	if deleted.ExpiresAt == nil || paused.ExpiresAt == nil {
		t.Error("expires_at is missing")
	}
	gone.pause()
	eventually(t, 20*time.Second, "auto_delete_seconds 0 deletes at the pause", func() bool {
		_, err := gone.api.GetSandbox(t.Context(), gone.id())
		return client.IsNotFound(err)
	})
	eventually(t, 20*time.Second, "the timeout deletes", func() bool {
		_, err := deleted.api.GetSandbox(t.Context(), deleted.id())
		return client.IsNotFound(err)
	})
	eventually(t, 20*time.Second, "the timeout pauses", func() bool { return paused.get().Status == client.StatusPaused })
	if paused.get().ExpiresAt != nil {
		t.Error("a pause timeout still runs while paused")
	}
	err := paused.api.PatchSandbox(t.Context(), paused.id(), client.PatchSandboxRequest{AutoDeleteSeconds: client.Value(1)})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "auto_delete set on a paused one deletes it", func() bool {
		_, err := paused.api.GetSandbox(t.Context(), paused.id())
		return client.IsNotFound(err)
	})
}

// The three ways to the data plane lead to the same sandbox.
func TestRouting(t *testing.T) {
	t.Parallel()
	b := shared.create(t)
	body := `{"command":"echo routed"}`
	for name, change := range map[string]func(*http.Request){
		"by host name": func(r *http.Request) { r.Host = "boxd-" + b.id() + ".sandbox.localhost:8080" },
		"by header on the shared host": func(r *http.Request) {
			r.Host = "sandbox.localhost"
			r.Header.Set("X-Superserve-Sandbox-Id", b.id())
		},
		"on the API's origin": func(r *http.Request) { r.Header.Set("X-Superserve-Sandbox-Id", b.id()) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, token := range []string{b.AccessToken, "wrong", ""} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, shared.URL+"/exec", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				change(req)
				req.Header.Set("X-Access-Token", token)
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				want := http.StatusUnauthorized
				if token == b.AccessToken {
					want = http.StatusOK
				}
				if res.StatusCode != want {
					t.Errorf("token %q: %d, want %d", token, res.StatusCode, want)
				}
			}
		})
	}
}
