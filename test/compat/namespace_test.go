package compat

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// world is a network namespace with nothing in it but a loopback device. There, port 443 is the server's, and every name
// is this machine's.
type world struct {
	calls chan func()
	etc   string
}

// newWorld makes one in which port 443 leads to the server at target.
func newWorld(t *testing.T, target string) *world {
	t.Helper()
	w := &world{calls: make(chan func()), etc: t.TempDir()}
	entered := make(chan error)
	go w.thread(entered)
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(w.calls) })
	for name, content := range map[string]string{
		"resolv.conf": "nameserver 127.0.0.1\n", "hosts": "127.0.0.1 localhost\n", "nsswitch.conf": "hosts: files dns\n",
	} {
		if err := os.WriteFile(filepath.Join(w.etc, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var https net.Listener
	var names net.PacketConn
	err := w.do(func() (err error) {
		if https, err = net.Listen("tcp", "127.0.0.1:443"); err != nil {
			return err
		}
		names, err = net.ListenPacket("udp", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	resolver := &dns.Server{PacketConn: names, Handler: dns.HandlerFunc(answerLoopback)}
	go func() { _ = resolver.ActivateAndServe() }() // ends with its socket
	go forward(https, target)
	t.Cleanup(func() { https.Close(); names.Close() })
	return w
}

// thread runs calls on a thread that is in the namespace and ends with it.
func (w *world) thread(entered chan<- error) {
	runtime.LockOSThread()
	entered <- enter()
	for f := range w.calls {
		f()
	}
}

func enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

func (w *world) do(f func() error) error {
	done := make(chan error)
	w.calls <- func() { done <- f() }
	return <-done
}

// answerLoopback says that every name has the address 127.0.0.1 and no IPv6 one.
func answerLoopback(rw dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	for _, question := range q.Question {
		if question.Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1),
			})
		}
	}
	_ = rw.WriteMsg(m) // the asker asks again
}

// forward passes connections on as they are: TLS ends at the server.
func forward(l net.Listener, target string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("tcp", target)
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				_, _ = io.Copy(out, in)
				_ = out.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(in, out)
		}()
	}
}

// run runs a program in the namespace, with files of its own in /etc, and returns what it printed.
func (w *world) run(t *testing.T, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	// A file that this machine does not have needs no other in its place.
	const script = `etc=$1; shift
for f in resolv.conf hosts nsswitch.conf; do [ ! -e /etc/$f ] || mount --bind "$etc/$f" /etc/$f || exit 1; done
exec "$@"`
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh", w.etc, name}, args...)...)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	var out []byte
	err := w.do(func() error {
		var err error
		out, err = cmd.CombinedOutput() // on this thread, whose namespace the child inherits
		return err
	})
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("it ended with %d", exit.ExitCode())
	}
	return string(out), err
}
