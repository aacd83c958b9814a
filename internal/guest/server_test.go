package guest

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/guestapi"
)

// An agent that is not the first process of its namespace must kill nothing: the largest process would be a stranger.
func TestRelieveOnlyAsProcessOne(t *testing.T) {
	if os.Getpid() == 1 {
		t.Fatal("run the tests as an ordinary process")
	}
	s, err := New(Config{Secret: "s"})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, guestapi.RelievePath, nil)
	r.Header.Set(guestapi.SecretHeader, "s")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("relieve answered %d %s", w.Code, w.Body)
	}
}

func TestMainThatCanNotBegin(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, c := range []struct {
		secret, says string
		args         []string
		code         int
	}{
		{"", guestapi.SecretEnv, nil, 1},
		{"s", "opening the agent's port", []string{"-listen", taken.Addr().String()}, 1},
		{"s", "not defined: -nonsense", []string{"-nonsense"}, 2},
	} {
		t.Setenv(guestapi.SecretEnv, c.secret)
		var stderr bytes.Buffer
		if code := Main(c.args, &stderr); code != c.code || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%v: exit code %d, %q", c.args, code, &stderr)
		}
		if c.code == 1 && os.Getenv(guestapi.SecretEnv) != "" {
			t.Error("the secret is still in the environment")
		}
	}
}
