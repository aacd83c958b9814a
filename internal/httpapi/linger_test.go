package httpapi_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// A client that sends all it has before it reads learns why it was refused.
func TestRefusedUploadsAreReadOn(t *testing.T) {
	r := newRig(t)
	r.service.err = sandbox.Errorf(sandbox.CodeConflict, "not now")
	for _, framing := range []string{"Content-Length: %d\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n%x\r\n"} {
		conn, err := net.Dial("tcp", r.url[len("http://"):])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		const size = 32 << 20 // more than the sockets hold
		fmt.Fprintf(conn, "POST /templates/contexts HTTP/1.1\r\nHost: x\r\nX-API-Key: "+goodKey+"\r\n"+framing, size)
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatalf("sending the body: %v", err)
		}
		if framing[0] == 'T' {
			_, _ = io.WriteString(conn, "\r\n0\r\n\r\n")
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("reading the answer: %v", err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusConflict {
			t.Errorf("%s", res.Status)
		}
	}
}

// A client that stops sending gets the answer at once, and can't hold the connection for long.
func TestRefusedUploadsThatStandStill(t *testing.T) {
	r := newRig(t)
	r.service.err = sandbox.Errorf(sandbox.CodeConflict, "not now")
	conn, err := net.Dial("tcp", r.url[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	const size = 1 << 20
	fmt.Fprintf(conn, "POST /templates/contexts HTTP/1.1\r\nHost: x\r\nX-API-Key: "+goodKey+"\r\nContent-Length: %d\r\n\r\n", size)
	if _, err := conn.Write(make([]byte, size/2)); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewReader(conn)
	res, err := http.ReadResponse(from, nil)
	if err != nil || res.StatusCode != http.StatusConflict {
		t.Fatalf("%+v, %v", res, err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if _, err := from.ReadByte(); err != io.EOF {
		t.Errorf("after the answer: %v, want the end", err)
	}
}
