package cli_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/cli"
	"github.com/superserve/superserve/internal/control"
)

// agentHost is a memoryHost whose sandboxes share one agent.
type agentHost struct {
	*memoryHost
	agent netip.AddrPort
}

func (h *agentHost) open(context.Context, cli.HostConfig) (cli.Host, error) { return h, nil }

func (h *agentHost) Agent(context.Context, string) (control.Endpoint, error) {
	return control.Endpoint{Addr: h.agent, Secret: "secret"}, nil
}

// newAgentHost has an agent that streams two events, the second when release is closed, echoes files, and upgrades
// connections to a line that it sends back.
func newAgentHost(t *testing.T, release <-chan struct{}) *agentHost {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /exec/stream", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: {\"timestamp\":\"2026-01-02T03:04:05.678Z\",\"stdout\":\"one\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "data: {\"timestamp\":\"2026-01-02T03:04:05.678Z\",\"exit_code\":0,\"finished\":true}\n\n")
	})
	mux.HandleFunc("POST /files", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, `{"path":"/f","size":%d}`, n)
	})
	mux.HandleFunc("GET /exec/connect", func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString(line)
		_ = rw.Flush()
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return &agentHost{newMemoryHost(), netip.MustParseAddrPort(s.Listener.Addr().String())}
}

// tlsClient trusts a PEM file and connects to addr whatever the host.
func tlsClient(t *testing.T, file, addr string) *http.Client {
	t.Helper()
	pool, err := client.LoadRootCAs(file)
	if err != nil {
		t.Fatal(err)
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

// The whole program with its own authority: both planes, by address and by sandbox name, over HTTP/2; a connection that
// is upgraded goes over HTTP/1.1 from the same client.
func TestTLSInternal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	release := make(chan struct{})
	srv := newServer(t, testConfig(t, dir, "SUPERSERVE_TLS=internal"), newAgentHost(t, release).open, nil)
	start(t, srv)
	addr, ok := strings.CutPrefix(srv.URL(), "https://")
	if !ok {
		t.Fatalf("URL %s", srv.URL())
	}
	h := tlsClient(t, filepath.Join(dir, "tls", "ca.pem"), addr)
	c, err := client.New(srv.URL(), keyOf(t, dir), client.WithHTTPClient(h))
	if err != nil {
		t.Fatal(err)
	}
	sb, err := c.CreateSandbox(t.Context(), client.CreateSandboxRequest{Name: "tls"})
	if err != nil {
		t.Fatal(err)
	}
	if sb.DataPlaneURL != srv.URL() {
		t.Errorf("data_plane_url %q, want %q", sb.DataPlaneURL, srv.URL())
	}
	host := "boxd-" + sb.ID + ".sandbox.localhost"
	for _, origin := range []string{sb.DataPlaneURL, "https://" + host} {
		req := dataRequest(t, http.MethodPost, origin+"/files?path=/f", sb, strings.NewReader("content"))
		res, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.ProtoMajor != 2 || string(body) != `{"path":"/f","size":7}` {
			t.Errorf("%s: HTTP/%d %s, %v", origin, res.ProtoMajor, body, err)
		}
	}
	streamOverTLS(t, h, "https://"+host, sb, release)
	upgradeOverTLS(t, h, "https://"+host, sb)
}

func dataRequest(t *testing.T, method, url string, sb *client.Sandbox, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Superserve-Sandbox-Id", sb.ID)
	req.Header.Set("X-Access-Token", sb.AccessToken)
	return req
}

// streamOverTLS reads an event before the agent has finished: HTTP/2 must not hold it back.
func streamOverTLS(t *testing.T, h *http.Client, origin string, sb *client.Sandbox, release chan struct{}) {
	t.Helper()
	res, err := h.Do(dataRequest(t, http.MethodPost, origin+"/exec/stream", sb, strings.NewReader(`{"command":"x"}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	first, err := lines.ReadString('\n')
	if err != nil || !strings.Contains(first, `"one"`) || res.ProtoMajor != 2 {
		t.Fatalf("HTTP/%d %q, %v", res.ProtoMajor, first, err)
	}
	close(release)
	rest, err := io.ReadAll(lines)
	if err != nil || !strings.Contains(string(rest), `"finished":true`) {
		t.Errorf("%q, %v", rest, err)
	}
}

func upgradeOverTLS(t *testing.T, h *http.Client, origin string, sb *client.Sandbox) {
	t.Helper()
	req := dataRequest(t, http.MethodGet, origin+"/exec/connect", sb, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	res, err := h.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	conn, ok := res.Body.(io.ReadWriter)
	if res.StatusCode != http.StatusSwitchingProtocols || res.ProtoMajor != 1 || !ok {
		t.Fatalf("HTTP/%d %s", res.ProtoMajor, res.Status)
	}
	if _, err := io.WriteString(conn, "ping\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "ping\n" {
		t.Errorf("%q, %v", line, err)
	}
}

// writePair writes a certificate for the names and its key.
func writePair(t *testing.T, dir string, names ...string) (env []string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: names,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"SUPERSERVE_TLS_CERT=" + filepath.Join(dir, "cert.pem"), "SUPERSERVE_TLS_KEY=" + filepath.Join(dir, "key.pem")}
}

// The operator's certificate is not valid for the address the server listens on and its name does not lead here; the
// commands of this machine work all the same, also when the certificate has been replaced.
func TestTLSFiles(t *testing.T) {
	dir, files := filepath.Join(t.TempDir(), "data"), t.TempDir()
	env := writePair(t, files, "*.sandbox.localhost", "api.superserve.test")
	srv := newServer(t, testConfig(t, dir, env...), newMemoryHost().open, nil)
	start(t, srv)
	if !strings.HasPrefix(srv.URL(), "https://api.superserve.test:") {
		t.Errorf("URL %s", srv.URL())
	}
	up := func() string {
		t.Helper()
		code, out, errs := run(t, []string{"SUPERSERVE_CONFIG=/dev/null"}, "up", "--data-dir", dir, "--wait", "20s")
		if code != 0 || strings.Contains(out, "SUPERSERVE_CA_FILE") {
			t.Errorf("up: %d %s%s", code, out, errs)
		}
		return out
	}
	if out := up(); !strings.Contains(out, "export SUPERSERVE_BASE_URL="+srv.URL()+"\n") {
		t.Errorf("up printed %s", out)
	}
	writePair(t, files, "api.superserve.test")
	_, port, _ := strings.Cut(srv.URL(), "test:")
	waitFor(t, func() bool {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return len(conn.ConnectionState().PeerCertificates[0].DNSNames) == 1
	})
	up()
}

// A certificate that names another host than public-url: up says so at once instead of waiting.
func TestUpWithAWrongCertificate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	env := append(writePair(t, t.TempDir(), "other.superserve.test"), "SUPERSERVE_PUBLIC_URL=https://api.superserve.test")
	start(t, newServer(t, testConfig(t, dir, env...), newMemoryHost().open, nil))
	code, _, errs := run(t, []string{"SUPERSERVE_CONFIG=/dev/null"}, "up", "--data-dir", dir)
	if code != 1 || !strings.Contains(errs, "certificate is valid for other.superserve.test, not api.superserve.test") {
		t.Errorf("%d %s", code, errs)
	}
}
