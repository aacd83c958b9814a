package fake_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime"
	"github.com/superserve/superserve/internal/runtime/fake"
)

func create(t *testing.T, w *fake.World) (runtime.Instance, runtime.Spec) {
	t.Helper()
	spec := newSpec(t, w)
	inst, err := fake.New(w).Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Kill(spec.ID) })
	return inst, spec
}

// call makes one request to the agent of an instance.
func call(t *testing.T, spec runtime.Spec, method, path, body string) (status int, answer string) {
	t.Helper()
	url := "http://" + netip.AddrPortFrom(spec.GuestAddr, guestapi.Port).String() + path
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(guestapi.SecretHeader, spec.AgentSecret)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

func TestFailNext(t *testing.T) {
	w := fake.NewWorld()
	inst, spec := create(t, w)
	fault := errors.New("scripted")
	for op, do := range map[fake.Op]func() error{
		fake.OpCreate: func() error {
			_, err := fake.New(w).Create(t.Context(), newSpec(t, w))
			return err
		},
		fake.OpRestore: func() error {
			dir := t.TempDir()
			if err := inst.Checkpoint(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			_, err := fake.New(w).Restore(t.Context(), newSpec(t, w), dir)
			return err
		},
		fake.OpAttach: func() error {
			_, err := fake.New(w).Attach(t.Context(), spec.ID, spec.Dir)
			return err
		},
		fake.OpCheckpoint: func() error { return inst.Checkpoint(t.Context(), t.TempDir()) },
		fake.OpFreeze:     func() error { return inst.Freeze(t.Context()) },
		fake.OpThaw:       func() error { return inst.Thaw(t.Context()) },
		fake.OpStats: func() error {
			_, err := inst.Stats(t.Context())
			return err
		},
	} {
		w.FailNext(op, fault)
		if err := do(); !errors.Is(err, fault) {
			t.Errorf("%s: %v; want the scripted fault", op, err)
		}
		if err := do(); err != nil {
			t.Errorf("%s after the fault: %v", op, err)
		}
	}
	w.FailNext(fake.OpDestroy, fault)
	if err := inst.Destroy(t.Context()); !errors.Is(err, fault) {
		t.Errorf("destroy: %v", err)
	}
	w.Close()
	if left := w.Running(); len(left) != 0 {
		t.Errorf("still running after Close: %v", left)
	}
}

func TestHoldAndDelay(t *testing.T) {
	w := fake.NewWorld()
	inst, _ := create(t, w)
	entered, release := w.Hold(fake.OpCheckpoint)
	dir, done := t.TempDir(), make(chan error, 1)
	go func() { done <- inst.Checkpoint(t.Context(), dir) }()
	<-entered
	select {
	case err := <-done:
		t.Fatalf("the checkpoint did not wait: %v", err)
	default:
	}
	release()
	release()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, takeBack := w.Hold(fake.OpFreeze)
	takeBack()
	w.Delay(fake.OpThaw, time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := errors.Join(inst.Freeze(t.Context()), inst.Thaw(ctx)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("freeze and a slow thaw: %v", err)
	}
}

func TestMuteAgents(t *testing.T) {
	w := fake.NewWorld()
	w.MuteAgents(true)
	_, spec := create(t, w)
	answered := make(chan int, 1)
	go func() {
		status, _ := call(t, spec, http.MethodGet, guestapi.HealthPath, "")
		answered <- status
	}()
	select {
	case status := <-answered:
		t.Fatalf("a mute agent answered %d", status)
	case <-time.After(50 * time.Millisecond): // silence is what is measured
	}
	w.MuteAgents(false)
	if status := <-answered; status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
}

func TestShell(t *testing.T) {
	w := fake.NewWorld()
	inst, spec := create(t, w)
	call(t, spec, http.MethodPost, guestapi.InitPath, `{"secret":"`+spec.AgentSecret+`","hostname":"box","env":{"A":"1","B":"2"}}`)
	for _, c := range []struct {
		request string
		want    guestapi.ExecResult
	}{
		{`{"command":"true"}`, guestapi.ExecResult{}},
		{`{"command":"false"}`, guestapi.ExecResult{ExitCode: 1}},
		{`{"command":"exit 300"}`, guestapi.ExecResult{ExitCode: 44}},
		{`{"command":"echo a  'b  c' \"d $A\"$B '$A'"}`, guestapi.ExecResult{Stdout: "a b  c d 12 $A\n"}},
		{`{"command":"echo $B$C","env":{"B":"call"}}`, guestapi.ExecResult{Stdout: "call\n"}},
		{`{"command":"echo x >/f; echo y >>/f && cat /f"}`, guestapi.ExecResult{Stdout: "x\ny\n"}},
		{`{"command":"false && echo no || echo yes; echo end"}`, guestapi.ExecResult{Stdout: "yes\nend\n"}},
		{`{"command":"echo oops >&2; exit 3; echo never"}`, guestapi.ExecResult{Stderr: "oops\n", ExitCode: 3}},
		{`{"command":"cat /missing"}`, guestapi.ExecResult{Stderr: "cat: /missing: No such file or directory\n", ExitCode: 1}},
		{`{"command":"frobnicate"}`, guestapi.ExecResult{Stderr: "sh: frobnicate: not found\n", ExitCode: 127}},
		{`{"command":"echo","args":["$A;",">/f"]}`, guestapi.ExecResult{Stdout: "$A; >/f\n"}},
		{`{"command":"hostname"}`, guestapi.ExecResult{Stdout: "box\n"}},
		{`{"command":"sleep 60","timeout_s":0.01}`, guestapi.ExecResult{ExitCode: 124}},
		{`{"command":"echo 'open"}`, guestapi.ExecResult{Stderr: "sh: unterminated quote\n", ExitCode: 2}},
	} {
		status, answer := call(t, spec, http.MethodPost, "/exec", c.request)
		var got guestapi.ExecResult
		if err := json.Unmarshal([]byte(answer), &got); err != nil || status != http.StatusOK || got != c.want {
			t.Errorf("%s: %d %+v, %v; want %+v", c.request, status, got, err, c.want)
		}
	}
	call(t, spec, http.MethodPost, "/exec", `{"command":"hog 10"}`)
	if st, err := inst.Stats(t.Context()); err != nil || st.MemoryBytes < 10<<20 {
		t.Errorf("with a hog of 10 MiB: %+v, %v", st, err)
	}
	if _, answer := call(t, spec, http.MethodPost, guestapi.RelievePath, ""); !strings.Contains(answer, `"rss_kib":10240`) {
		t.Errorf("relief: %s", answer)
	}
}

func TestStreamAndFiles(t *testing.T) {
	w := fake.NewWorld()
	_, spec := create(t, w)
	_, answer := call(t, spec, http.MethodPost, "/exec/stream", `{"command":"echo one; echo two >&2; exit 5"}`)
	var events []guestapi.ExecEvent
	for line := range bytes.Lines([]byte(answer)) {
		if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			var e guestapi.ExecEvent
			if err := json.Unmarshal(data, &e); err != nil || e.Timestamp == "" {
				t.Fatalf("%s: %v", line, err)
			}
			events = append(events, e)
		}
	}
	if len(events) != 3 || events[0].Stdout != "one\n" || events[1].Stderr != "two\n" || !events[2].Finished || *events[2].ExitCode != 5 {
		t.Errorf("events %+v", events)
	}
	if status, answer := call(t, spec, http.MethodPost, "/files?path=/d/f", "hello"); status != 200 || !strings.Contains(answer, `"size":5`) {
		t.Errorf("write: %d %s", status, answer)
	}
	if status, answer := call(t, spec, http.MethodGet, "/files?path=/d/f", ""); status != 200 || answer != "hello" {
		t.Errorf("read: %d %s", status, answer)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodDelete, "/files?path=/d/f", 204},
		{http.MethodDelete, "/files?path=/d/f", 404},
		{http.MethodGet, "/files?path=/d/f", 404},
		{http.MethodGet, "/files?path=d/f", 400},
		{http.MethodGet, "/files?path=/d/../f", 400},
		{http.MethodPost, "/exec", 400},
		{http.MethodGet, "/nowhere", 404},
	} {
		if status, answer := call(t, spec, c.method, c.path, ""); status != c.want {
			t.Errorf("%s %s: %d %s; want %d", c.method, c.path, status, answer, c.want)
		}
	}
}
