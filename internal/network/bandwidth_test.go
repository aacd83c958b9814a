package network_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/network/nettest"
)

// limit sets what one slot may exchange with the outside each way.
func limit(mbits int) func(*setup) {
	return func(c *setup) { c.MaxMbits, c.Egress.MaxMbits = mbits, mbits }
}

// serveTCP answers connections to an address of the internet.
func serveTCP(t *testing.T, addr string, handle func(net.Conn)) {
	t.Helper()
	err := nettest.InNS(netnsPath(internetNS), func() error {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					handle(c)
				}()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TCP keeps to the limit in both directions, and does not stall on the way: with all connections of a slot together, and
// with the large segments that a veth carries.
func TestBandwidthOfTCP(t *testing.T) {
	const mbits, connections, size = 40, 4, 2 << 20
	serveTCP(t, publicAddr+":8081", func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintln(c, n)
	})
	serveTCP(t, publicAddr+":8082", func(c net.Conn) { c.Write(make([]byte, size)) })
	m := start(t, limit(mbits))
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	serveGuest(t, s)
	expected := time.Duration(connections*size*8/mbits) * time.Microsecond
	var slow time.Duration
	for direction, transfer := range map[string]func() error{
		"up": func() error { return upload(s, publicAddr+":8081", size) }, "down": func() error { return download(s, publicAddr+":8082", size) },
	} {
		slow = timed(t, connections, transfer)
		if slow < expected*7/10 || slow > expected*3 {
			t.Errorf("%s: %d bytes took %v at %d Mbit/s, want about %v", direction, connections*size, slow, mbits, expected)
		}
		t.Logf("%s: %.1f Mbit/s of %d", direction, connections*size*8/slow.Seconds()/1e6, mbits)
	}
	// What the host exchanges with the guest does not count.
	free := timed(t, connections, func() error {
		conn, err := dialTCP("", s.GuestAddr.String(), hostPort, deadline)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		go conn.Write(make([]byte, size))
		_, err = io.CopyN(io.Discard, conn.r, size)
		return err
	})
	if free > slow/2 {
		t.Errorf("the host's own transfer took %v, the limited one %v", free, slow)
	}
}

// timed runs transfers at once and says how long all of them took.
func timed(t *testing.T, n int, transfer func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			if err := transfer(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return time.Since(begin)
}

func dialFrom(s network.Slot, addr string) (conn net.Conn, err error) {
	err = nettest.InNS(s.NetNS, func() error {
		conn, err = net.DialTimeout("tcp", addr, deadline)
		return err
	})
	if err == nil {
		conn.SetDeadline(time.Now().Add(time.Minute))
	}
	return conn, err
}

func upload(s network.Slot, addr string, size int) error {
	conn, err := dialFrom(s, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var got int
	if _, err := fmt.Fscan(conn, &got); err != nil {
		return err
	}
	return unlessAll(got, size)
}

func download(s network.Slot, addr string, size int) error {
	conn, err := dialFrom(s, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	n, err := io.Copy(io.Discard, conn)
	if err != nil {
		return err
	}
	return unlessAll(int(n), size)
}

func unlessAll(got, size int) error {
	if got != size {
		return fmt.Errorf("%d bytes arrived, want %d", got, size)
	}
	return nil
}

// UDP above the limit is dropped in both directions, and costs neither TCP nor DNS anything.
func TestBandwidthOfUDP(t *testing.T) {
	const mbits, datagrams, size = 1, 3000, 1000
	m := start(t, limit(mbits))
	s := acquire(t, m)
	apply(t, m, s, nil, nil)
	inside, outside := sink(t, s.NetNS, s.GuestAddr.String()+":9400"), sink(t, netnsPath(internetNS), publicAddr+":9400")
	for direction, ends := range map[string][2]net.PacketConn{"up": {inside, outside}, "down": {outside, inside}} {
		from, to := ends[0], ends[1]
		if _, err := inside.WriteTo([]byte("first"), outside.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		peer := outside.LocalAddr()
		outside.SetDeadline(time.Now().Add(deadline))
		_, guest, err := outside.ReadFrom(make([]byte, 2*size))
		if err != nil {
			t.Fatal(err)
		}
		if direction == "down" {
			peer = guest
		}
		begin := time.Now()
		got := make(chan int)
		go func() { got <- drain(to) }()
		for range datagrams {
			from.WriteTo(make([]byte, size), peer)
		}
		passed := <-got
		// A second's worth passes at once.
		if most := int((1.5*time.Since(begin).Seconds() + 2) * mbits * 1e6 / 8); passed*size > most || passed < 10 {
			t.Errorf("%s: %d of %d bytes passed, want at most %d", direction, passed*size, datagrams*size, most)
		}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					from.WriteTo([]byte{0}, peer) // smaller than what shall pass, so that no gap is left for it
				}
			}
		}()
		for range 3 {
			mustResolve(t, s.NetNS, "udp", rogueDNS)
			if _, err := talkTCP(s.NetNS, publicAddr, tcpPort, deadline); err != nil {
				t.Error(err)
			}
		}
		close(stop)
		<-stopped
	}
}

// drain counts datagrams until there are none for a while.
func drain(c net.PacketConn) (n int) {
	buf := make([]byte, 2048)
	for ; ; n++ {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := c.ReadFrom(buf); err != nil {
			return n
		}
	}
}
