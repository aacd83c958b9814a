package guest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxSockets is how many WebSockets may be open at once; one more is 503.
	maxSockets = 256
	// pongPatience is how long the answer to a ping waits for a write that is going on. It is less than the 5 s after
	// which the library gives the connection up: a client that does not read now is slow, not gone.
	pongPatience = 4 * time.Second
	// maxCloseReason is what a close frame has room for, in bytes.
	maxCloseReason = 123
)

// socket is a WebSocket. One goroutine reads it and one writes it.
type socket struct {
	*websocket.Conn
	writing chan struct{} // held, by sending, during a write
}

// upgrade turns the request into a WebSocket; done must be called when it is no longer used. An error is an answer, a
// nil socket without one means that the client is gone.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, protocol string) (sock *socket, done func(), err error) {
	if err := checkUpgrade(w, r, protocol); err != nil {
		return nil, nil, err
	}
	if s.sockets.Add(1) > maxSockets {
		s.sockets.Add(-1)
		return nil, nil, unavailable("the sandbox has %d live connections already", maxSockets)
	}
	sock = &socket{writing: make(chan struct{}, 1)}
	sock.Conn, err = websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:       []string{protocol},
		InsecureSkipVerify: true, // whoever has the secret may come from anywhere
		OnPingReceived:     sock.mayPong,
	})
	if err != nil {
		s.sockets.Add(-1)
		return nil, nil, nil
	}
	sock.SetReadLimit(guestapi.MaxMessage)
	conn, _ := r.Context().Value(connKey{}).(net.Conn)
	s.conns.adopt(conn)
	return sock, func() {
		_ = sock.CloseNow()
		s.conns.drop(conn)
		s.sockets.Add(-1)
	}, nil
}

// checkUpgrade finds what the library would answer with a text that is no JSON.
func checkUpgrade(w http.ResponseWriter, r *http.Request, protocol string) error {
	if !headerHas(r.Header, "Connection", "upgrade") || !headerHas(r.Header, "Upgrade", "websocket") {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		return newError(http.StatusUpgradeRequired, codeBadRequest, "this call needs a WebSocket")
	}
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	if err != nil || len(key) != 16 || len(r.Header.Values("Sec-WebSocket-Key")) != 1 || r.Header.Get("Sec-WebSocket-Version") != "13" {
		return badRequest("the WebSocket handshake is not one of version 13")
	}
	if r.Header.Get("Sec-WebSocket-Protocol") != "" && !headerHas(r.Header, "Sec-WebSocket-Protocol", protocol) {
		return badRequest("this call speaks the WebSocket subprotocol %s", protocol)
	}
	return nil
}

func headerHas(h http.Header, name, want string) bool {
	for _, line := range h.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), want) {
				return true
			}
		}
	}
	return false
}

// mayPong keeps the library from waiting for a slow client's write until it takes the connection for dead.
func (k *socket) mayPong(context.Context, []byte) bool {
	select {
	case k.writing <- struct{}{}:
		<-k.writing
		return true
	case <-time.After(pongPatience):
		return false
	}
}

// send writes a message, however long the client takes for it.
func (k *socket) send(kind websocket.MessageType, p []byte) error {
	k.writing <- struct{}{}
	defer func() { <-k.writing }()
	return k.Write(context.Background(), kind, p)
}

// sendJSON writes a text message.
func (k *socket) sendJSON(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return k.send(websocket.MessageText, b)
}

// readText reads a message to its end as JSON into v.
func readText(message io.Reader, v any) error {
	text, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	if !utf8.Valid(text) {
		return badRequest("a text message is not UTF-8")
	}
	return decodeJSON(text, v)
}

// ping keeps proxies on the way from taking a quiet connection for a dead one, and finds a client that is gone while
// nothing is read from it. It returns when that has happened or ctx is done. A missing answer means nothing: a slow
// client has not come to it yet.
func (k *socket) ping(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		patient, cancel := context.WithTimeout(ctx, every)
		err := k.Ping(patient)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return
		}
	}
}

// fail closes the socket with what err says: an apiError or the end of the connection.
func (k *socket) fail(err error) {
	if errors.Is(err, websocket.ErrMessageTooBig) {
		_ = k.Close(websocket.StatusMessageTooBig, "") // the library has sent the reason; this waits for the answer
		return
	}
	if api, ok := errors.AsType[*apiError](err); ok {
		_ = k.Close(websocket.StatusCode(guestapi.CloseErrorBase+api.status), closeReason(api.Error()))
		return
	}
	_ = k.CloseNow()
}

// closeReason cuts text to what fits, between two characters.
func closeReason(text string) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= maxCloseReason {
		return text
	}
	text = text[:maxCloseReason]
	return text[:completePrefix([]byte(text))]
}
