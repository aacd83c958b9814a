package egress_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/sandbox"
)

// serveBigDNS is a DNS server whose answers fit only TCP.
func serveBigDNS(t *testing.T, answer dns.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	truncated := func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		reply.Truncated = true
		w.WriteMsg(reply)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: answer}, {PacketConn: pc, Handler: dns.HandlerFunc(truncated)}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return l.Addr().String()
}

// Every address that an answer opens takes time in the kernel, which all sandboxes share: an answer opens only so many.
func TestAnswersWithThousandsOfAddresses(t *testing.T) {
	w := dnsWorld(t, serveBigDNS(t, func(w dns.ResponseWriter, req *dns.Msg) {
		reply := new(dns.Msg).SetReply(req)
		reply.Compress = true
		for i := range 3000 {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 198.51.%d.%d", req.Question[0].Name, i/250, i%250))
			reply.Answer = append(reply.Answer, rr)
		}
		w.WriteMsg(reply)
	}))
	w.apply([]string{"www.good.example"}, all)
	reply, err := w.ask("tcp", "www.good.example", dns.TypeA)
	if err != nil || len(reply.Answer) != egress.MaxGiven {
		t.Errorf("an answer with %d records, %v; want %d", len(reply.Answer), err, egress.MaxGiven)
	}
	if got := len(w.admissions(guestA)); got != egress.MaxGiven {
		t.Errorf("%d addresses are admitted, want %d", got, egress.MaxGiven)
	}
}

// acceptedBy is a connection of a guest as the resolver has it.
func (w *world) acceptedBy(t *testing.T, wrap func(net.Listener) net.Listener) (l net.Listener, accepted net.Conn, err error) {
	t.Helper()
	l, err = net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: guestA.AsSlice()}, Timeout: deadline}
	c, err := d.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	accepted, err = w.engine.SlotListener(wrap(l)).Accept()
	return l, accepted, err
}

// A client that asks by TCP and reads no answer is given up: the resolver could not end before its last answer is sent.
func TestAnswersThatNobodyReads(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	_, accepted, err := w.acceptedBy(t, func(l net.Listener) net.Listener { return l })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	ended := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = accepted.Write(make([]byte, 1<<20))
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Fatal("the resolver waits for a client that does not read")
	}
	if _, err := accepted.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading its next query: %v, want the connection to be closed", err)
	}
}

// By TCP a sandbox can ask no faster than by UDP, where the packet filter sees to it.
func TestQueriesByTCPHaveARate(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, all)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: guestA.AsSlice()}, Timeout: deadline}
	c, err := d.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", w.dns))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	conn.SetDeadline(time.Now().Add(deadline))
	const queries, atOnce, perSecond = 1250, 500, 500
	began := time.Now()
	go func() {
		for range queries {
			conn.WriteMsg(new(dns.Msg).SetQuestion("data.evil.example.", dns.TypeA))
		}
	}()
	for range queries {
		if _, err := conn.ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < (queries-atOnce)*time.Second/perSecond-100*time.Millisecond {
		t.Errorf("%d queries were answered in %s", queries, took)
	}
}

// shortOf is a listener on a host that has run out of memory for a moment.
type shortOf struct {
	net.Listener
	failed bool
}

func (l *shortOf) Accept() (net.Conn, error) {
	if !l.failed {
		l.failed = true
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.ENOBUFS)}
	}
	return l.Listener.Accept()
}

func TestResolverOutlivesAShortage(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	l, accepted, err := w.acceptedBy(t, func(l net.Listener) net.Listener { return &shortOf{Listener: l} })
	if err != nil {
		t.Fatalf("%v: with that the resolver would have ended", err)
	}
	accepted.Close()
	l.Close()
	if _, err := w.engine.SlotListener(l).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("of a closed listener: %v", err)
	}
}

// What all sandboxes share may be full: each can still look names up and connect, if only a little at a time.
func TestOthersCannotTakeEverything(t *testing.T) {
	w := dnsWorld(t, upstream(t, "one.example. 300 IN A 203.0.113.1"))
	w.apply([]string{"one.example"}, all)
	w.serve(1, echo)
	w.engine.FillShared()
	if rcode, addrs := w.lookup("one.example"); rcode != "NOERROR" || len(addrs) != 1 {
		t.Errorf("a query: %s %v", rcode, addrs)
	}
	c := w.connect(guestA, 1)
	get := "GET / HTTP/1.1\r\nHost: one.example\r\n\r\n"
	mustWrite(t, c, get)
	mustRead(t, c, get)
}

// Servers skip any number of empty lines before a request: they must not hide whom it is for.
func TestRequestBehindManyEmptyLines(t *testing.T) {
	w := newWorld(t)
	w.open([]string{"one.example"}, all, "one.example")
	w.serve(1, echo)
	c := w.connect(guestA, 1)
	go func() {
		c.Write(bytes.Repeat([]byte("\r\n"), egress.MaxHead/2+1))
		c.Write([]byte("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"))
	}()
	row := w.rows.find(t, "of the connection", ended)
	if row.Verdict != sandbox.VerdictBlocked || *row.BytesSent != 0 {
		t.Errorf("%+v", row)
	}
}
