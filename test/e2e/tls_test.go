package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/test/harness"
)

// tlsServer is a server with a certificate authority of its own, and a client's view of it.
type tlsServer struct {
	*harness.Server
	caFile string
	http   *http.Client
}

const tlsSandboxHost = "sandbox.e2e.test"

// startTLS starts one. Names below sandbox.e2e.test lead to it in the client's dialer, as a wildcard record would.
func startTLS(t *testing.T) *tlsServer {
	t.Helper()
	s := harness.Prepare(t, map[string]string{
		"TLS": "internal", "SANDBOX_HOST": tlsSandboxHost, "WARM_POOL_SIZE": "0",
	})
	if err := harness.CopyImages(shared.ImagesDir(), s.ImagesDir()); err != nil {
		t.Fatal(err)
	}
	ts := &tlsServer{Server: s, caFile: filepath.Join(t.TempDir(), "ca.pem")}
	ts.URL = "https://" + s.Settings["LISTEN"]
	ts.run(t)
	writeFile(t, ts.caFile, ts.cli(t, "ca", "show"))
	ts.http = trusting(t, []byte(readFile(t, ts.caFile)), s.Settings["LISTEN"])
	return ts
}

// run starts the server and waits until it is ready.
func (s *tlsServer) run(t *testing.T) {
	t.Helper()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	err := s.Await(3*time.Minute, func(ctx context.Context) bool {
		ca, err := os.ReadFile(filepath.Join(s.Settings["DATA_DIR"], "tls", "ca.pem"))
		if err != nil {
			return false // not made yet
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/ready", nil)
		if err != nil {
			return false
		}
		res, err := trusting(t, ca, s.Settings["LISTEN"]).Do(req)
		if err != nil {
			return false
		}
		defer res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	if err != nil {
		t.Fatal(err)
	}
}

// cli runs a command that must succeed, with nothing in its environment but what is given.
func (s *tlsServer) cli(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary, args...)
	cmd.Env = []string{
		"SUPERSERVE_CONFIG=/dev/null", "SUPERSERVE_BASE_URL=" + s.URL, "SUPERSERVE_API_KEY=" + harness.Key,
		"SUPERSERVE_CA_FILE=" + s.caFile, "SUPERSERVE_DATA_DIR=" + s.Settings["DATA_DIR"],
		"SUPERSERVE_BOOTSTRAP_API_KEY=" + harness.Key,
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("superserve %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// trusting is a client that trusts only an authority in PEM and reaches the server at addr by every name.
func trusting(t *testing.T, ca []byte, addr string) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("not a certificate: %q", ca)
	}
	transport := &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestTLS uses a sandbox over TLS by its own host name, as a client with wildcard DNS does, through a restart.
func TestTLS(t *testing.T) {
	s := startTLS(t)
	api, err := client.New(s.URL, harness.Key, client.WithHTTPClient(s.http))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := api.CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "tls"})
	if err != nil {
		t.Fatal(err)
	}
	if sb.DataPlaneURL != s.URL {
		t.Errorf("data_plane_url is %q, want %q", sb.DataPlaneURL, s.URL)
	}
	host := "boxd-" + sb.ID + "." + tlsSandboxHost
	for name, origin := range map[string]string{
		"its own host name": "https://" + host, "its own host name and a port": "https://" + host + ":8443",
		"the sandbox host": "https://" + tlsSandboxHost, "the address of the API": sb.DataPlaneURL,
	} {
		data, err := api.DataPlaneAt(origin, sb.ID, sb.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { useDataPlane(t, data) })
	}
	t.Run("by name alone, over HTTP/2", func(t *testing.T) { s.byNameAlone(t, host, sb.AccessToken) })
	t.Run("another name", func(t *testing.T) {
		_, err := s.http.Get("https://boxd-" + sb.ID + ".other.e2e.test/health")
		if _, ok := errors.AsType[x509.HostnameError](err); !ok {
			t.Errorf("%v, want a host name error", err)
		}
	})
	t.Run("command line", func(t *testing.T) {
		want := "export SUPERSERVE_BASE_URL=" + s.URL + "\nexport SUPERSERVE_API_KEY=" + harness.Key + "\nexport SUPERSERVE_CA_FILE="
		if out := s.cli(t, "up"); !strings.HasPrefix(out, want) {
			t.Errorf("up printed %q", out)
		}
		if out := s.cli(t, "sandbox", "exec", sb.ID, "--", "echo from the cli"); out != "from the cli\n" {
			t.Errorf("exec printed %q", out)
		}
	})
	t.Run("restart", func(t *testing.T) {
		if err := s.Stop(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.run(t)
		if got := s.cli(t, "ca", "show"); got != readFile(t, s.caFile) {
			t.Error("the restarted server has another authority")
		}
		data, err := api.DataPlaneAt("https://"+host, sb.ID, sb.AccessToken)
		if err != nil {
			t.Fatal(err)
		}
		if err := api.PauseSandbox(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
		useDataPlane(t, data) // wakes it
	})
}

// useDataPlane runs a command, streams one, talks to one over a WebSocket, and moves a file both ways.
func useDataPlane(t *testing.T, data *client.DataPlane) {
	t.Helper()
	res, err := data.Exec(t.Context(), client.ExecRequest{Command: "echo $((6*7))"})
	if err != nil || res.Stdout != "42\n" {
		t.Fatalf("exec: %+v, %v", res, err)
	}
	stream, err := data.ExecStream(t.Context(), client.ExecRequest{Command: "echo one; echo two"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code, err := stream.Copy(&out, io.Discard); err != nil || code != 0 || out.String() != "one\ntwo\n" {
		t.Errorf("stream: %d %q, %v", code, out.String(), err)
	}
	session, err := data.Spawn(t.Context(), client.ExecRequest{Command: "cat"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(session.Stdin, "over a WebSocket"); err != nil {
		t.Error(err)
	}
	if err := session.Stdin.Close(); err != nil {
		t.Error(err)
	}
	out.Reset()
	if code, err := session.Copy(t.Context(), &out, nil); err != nil || code != 0 || out.String() != "over a WebSocket" {
		t.Errorf("session: %d %q, %v", code, out.String(), err)
	}
	want := make([]byte, 3<<20)
	rand.Read(want)
	if _, err := data.WriteFile(t.Context(), "/home/user/tls", bytes.NewReader(want), int64(len(want))); err != nil {
		t.Fatal(err)
	}
	f, err := data.ReadFile(t.Context(), "/home/user/tls")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(want), err)
	}
}

// byNameAlone sends no routing header: the host name says which sandbox it is.
func (s *tlsServer) byNameAlone(t *testing.T, host, token string) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/exec", strings.NewReader(`{"command":"hostname"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Access-Token", token)
	res, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || res.ProtoMajor != 2 || !bytes.Contains(body, []byte(`"exit_code":0`)) {
		t.Error(fmt.Sprintf("HTTP/%d %s %s", res.ProtoMajor, res.Status, body), err)
	}
}
