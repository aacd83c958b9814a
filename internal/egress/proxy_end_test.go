package egress_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

func TestHalfClose(t *testing.T) { withAndWithoutLimit(t, testHalfClose) }

func testHalfClose(t *testing.T, w *world) {
	w.serve(1, func(c *net.TCPConn) { // answers only after the client's end
		b, err := io.ReadAll(c)
		if err == nil {
			c.Write(append([]byte("got "), b...))
		}
	})
	c := w.connect(guestA, 1)
	mustWrite(t, c, "all")
	c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "got all" {
		t.Errorf("%q, %v", b, err)
	}
	w.serve(2, func(c *net.TCPConn) { // ends its half first, and reads on
		mustWrite(t, c, "done")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		w.rows.Record(sandbox.NetworkLogEntry{ID: "server", Host: string(b)})
	})
	c = w.connect(guestA, 2)
	if b, err := io.ReadAll(c); err != nil || string(b) != "done" {
		t.Errorf("%q, %v", b, err)
	}
	mustWrite(t, c, "late")
	c.Close()
	w.rows.find(t, "of the server", func(e sandbox.NetworkLogEntry) bool { return e.ID == "server" && e.Host == "late" })
	row := w.rows.find(t, "of the second connection", func(e sandbox.NetworkLogEntry) bool { return ended(e) && e.DstIP == public(2) })
	if *row.BytesSent != 4 || *row.BytesRecv != 4 {
		t.Errorf("%+v", row)
	}
}

// A reset reaches the other end, also when the half it comes from has ended before.
func TestResetsPassThrough(t *testing.T) { withAndWithoutLimit(t, testResetsPassThrough) }

func testResetsPassThrough(t *testing.T, w *world) {
	gone := make(chan error, 1)
	w.serve(1, func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		gone <- err
	})
	c := w.connect(guestA, 1)
	mustWrite(t, c, "x")
	c.SetLinger(0)
	c.Close()
	if err := <-gone; err == nil {
		t.Error("the client's reset came as an ordinary end")
	}
	w.serve(2, func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		c.SetLinger(0)
	})
	c = w.connect(guestA, 2)
	mustWrite(t, c, "x")
	c.CloseWrite()
	mustBeReset(t, c)
	w.serve(3, func(c *net.TCPConn) {
		mustWrite(t, c, "ready")
		_, err := io.ReadAll(c)
		if err == nil { // then the reset is all there is to see
			c.SetDeadline(time.Now().Add(deadline))
			for err == nil {
				_, err = c.Write(make([]byte, 1<<16))
			}
		}
		gone <- err
	})
	c = w.connect(guestA, 3)
	mustRead(t, c, "ready")
	c.CloseWrite()
	c.SetLinger(0)
	c.Close()
	if err := <-gone; err == nil {
		t.Error("the server never noticed that the client was gone")
	}
}

// A client that ends its half and then vanishes does not leave a connection to a silent server behind.
func TestResetAfterTheEnd(t *testing.T) { withAndWithoutLimit(t, testResetAfterTheEnd) }

func testResetAfterTheEnd(t *testing.T, w *world) {
	read, end := make(chan struct{}), make(chan struct{})
	w.serve(1, func(c *net.TCPConn) {
		io.Copy(io.Discard, c)
		close(read)
		<-end
	})
	defer close(end)
	c := w.connect(guestA, 1)
	mustWrite(t, c, "x")
	c.CloseWrite()
	<-read
	c.SetLinger(0)
	c.Close()
	w.rows.find(t, "of the connection", ended)
}

func TestBigTransfers(t *testing.T) {
	w := newWorld(t)
	w.apply(nil, nil)
	const size = 64 << 20
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, size)
	random.Read(data)
	sum := sha256.Sum256(data)
	w.serve(1, func(c *net.TCPConn) {
		got := sha256.New()
		io.Copy(got, c)
		c.Write(got.Sum(nil))
		c.Write(data)
	})
	c := w.connect(guestA, 1)
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
	mustRead(t, c, string(sum[:]))
	back, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(back, data) {
		t.Fatalf("%d bytes came back, %v", len(back), err)
	}
	row := w.rows.find(t, "of the connection", ended)
	if *row.BytesSent != size || *row.BytesRecv != size+int64(len(sum)) {
		t.Errorf("sent %d, received %d", *row.BytesSent, *row.BytesRecv)
	}
}
