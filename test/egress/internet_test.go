package egress

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network/nettest"
)

// The services, on every address of the internet. A TCP port that is not here is closed.
const (
	portEcho    = 7    // TCP: what comes back is what was sent
	portDiscard = 9    // TCP: reads until the end, then says how much it was
	portSource  = 19   // TCP: a line with a number of bytes is answered with so many
	portSpeaks  = 22   // TCP: says a line first, then echo
	portHTTP    = 80   // HTTP/1: answers with its own address and the Host it was asked for
	portHTTPS   = 443  // the same over TLS, with the SNI; UDP echo
	portDoT     = 853  // TLS as well
	portAltTLS  = 8443 // TLS as well
	portUDP     = 9000 // UDP echo
	portClosed  = 81
)

const speaksFirst = "SSH-2.0-internet"

// internet is everything behind the host's uplink.
type internet struct {
	witness *witness
	zone    *zone

	mu       sync.Mutex
	received map[netip.Addr]int64 // bytes that TCP services of an address have read
	conns    map[netip.Addr]int   // connections that TCP services of an address have now
	udp      map[netip.Addr]int64 // datagrams that came to an address
}

func openInternet() (*internet, error) {
	n := &internet{received: map[netip.Addr]int64{}, conns: map[netip.Addr]int{}, udp: map[netip.Addr]int64{}}
	var err error
	if n.witness, err = newWitness(); err != nil {
		return nil, err
	}
	return n, nettest.InNS(internetNS, func() error {
		if n.zone, err = serveNames(); err != nil {
			return err
		}
		return errors.Join(n.serveTCP(), n.serveUDP(portUDP), n.serveUDP(portHTTPS))
	})
}

// got is how many bytes TCP services of an address have read so far.
func (n *internet) got(a netip.Addr) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.received[a]
}

// open is how many connections the TCP services of an address have now.
func (n *internet) open(a netip.Addr) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.conns[a]
}

// datagrams is how many of them came to an address so far.
func (n *internet) datagrams(a netip.Addr) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.udp[a]
}

func (n *internet) serveTCP() error {
	secure, err := certificate()
	if err != nil {
		return err
	}
	web := &http.Server{Handler: http.HandlerFunc(answerHTTP), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	for port, handle := range map[int]func(net.Conn){
		portEcho: func(c net.Conn) { _, _ = io.Copy(c, c) }, portDiscard: discard, portSource: source,
		portSpeaks: func(c net.Conn) { fmt.Fprintf(c, "%s\r\n", speaksFirst); _, _ = io.Copy(c, c) },
	} {
		l, err := n.listen(port)
		if err != nil {
			return err
		}
		go serveEach(l, handle)
	}
	for _, port := range []int{portHTTP, portHTTPS, portDoT, portAltTLS} {
		l, err := n.listen(port)
		if err != nil {
			return err
		}
		if port != portHTTP {
			l = tls.NewListener(l, secure)
		}
		go func() { _ = web.Serve(l) }() // ends with the test program
	}
	return nil
}

func serveEach(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); handle(c) }()
	}
}

func discard(c net.Conn) {
	n, _ := io.Copy(io.Discard, c)
	fmt.Fprintf(c, "%d\n", n)
}

func source(c net.Conn) {
	line, _ := bufio.NewReader(c).ReadString('\n')
	n, err := strconv.ParseInt(line[:max(len(line)-1, 0)], 10, 64)
	if err == nil {
		_, _ = io.CopyN(c, zeros{}, n)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// answerHTTP says "at ADDRESS for HOST", and " sni NAME" over TLS.
func answerHTTP(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	host, _, _ := net.SplitHostPort(local.String())
	body := fmt.Sprintf("at %s for %s", host, r.Host)
	if r.TLS != nil {
		body += " sni " + r.TLS.ServerName
	}
	fmt.Fprintln(w, body)
}

func (n *internet) listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port)) // both families
	return &countingListener{l, n}, err
}

// countingListener notes connections and what they carry.
type countingListener struct {
	net.Listener
	n *internet
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	at := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	l.n.mu.Lock()
	l.n.conns[at]++
	l.n.mu.Unlock()
	return &countingConn{Conn: c, n: l.n, at: at}, nil
}

type countingConn struct {
	net.Conn
	n    *internet
	at   netip.Addr
	once sync.Once
}

func (c *countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.mu.Lock()
	c.n.received[c.at] += int64(n)
	c.n.mu.Unlock()
	return n, err
}

func (c *countingConn) Close() error {
	c.once.Do(func() {
		c.n.mu.Lock()
		c.n.conns[c.at]--
		c.n.mu.Unlock()
	})
	return c.Conn.Close()
}

// serveUDP echoes datagrams, from the address they were sent to.
func (n *internet) serveUDP(port int) error {
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	raw, err := pc.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) { option = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) })
	if err = errors.Join(err, option); err != nil {
		return err
	}
	go func() {
		buf, oob := make([]byte, 65536), make([]byte, 128)
		for {
			size, m, _, from, err := pc.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				return
			}
			at, reply := sentTo(oob[:m])
			n.mu.Lock()
			n.udp[at]++
			n.mu.Unlock()
			_, _, _ = pc.WriteMsgUDPAddrPort(buf[:size], reply, from)
		}
	}()
	return nil
}

// sentTo reads the note about where a datagram was sent to, and makes the one about where the answer is to come from.
func sentTo(oob []byte) (netip.Addr, []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 || len(messages[0].Data) < 12 {
		return netip.Addr{}, nil
	}
	info := &unix.Inet4Pktinfo{}
	copy(info.Spec_dst[:], messages[0].Data[8:12])
	return netip.AddrFrom4(info.Spec_dst), unix.PktInfo4(info)
}

// certificate is good for nobody in particular: clients under test do not check it.
func certificate() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "internet"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, nil
}
