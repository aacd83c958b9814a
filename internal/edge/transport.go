package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// dialTimeout bounds the opening of a connection; the agent is on the same host or one hop away.
	dialTimeout = 5 * time.Second
	// answerTimeout bounds the wait for the first byte of an answer after the whole request has been sent, for calls
	// that wait for no command. Syncing a large upload to a slow disk and the first entry of a large directory take time.
	answerTimeout = 2 * time.Minute
	// maxAnswerHeader bounds the headers of an agent's answer.
	maxAnswerHeader = 64 << 10
)

// errGone is the cause of a call that ended because its sandbox did.
var errGone = errors.New("the sandbox stopped")

// transport sends requests to agents. Connections are used once: a sandbox's address changes when it is resumed and
// may belong to another sandbox later, and none should be open when a checkpoint is taken.
type transport struct {
	// answering has a time limit for the first byte of the answer, running has none.
	answering, running *http.Transport
	vigil              *vigil
}

func newTransport(patience time.Duration) *transport {
	dialer := &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
	}
	running := &http.Transport{
		DialContext:            dialer.DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeader,
		ReadBufferSize:         bufferSize,
		WriteBufferSize:        bufferSize,
	}
	answering := running.Clone()
	answering.ResponseHeaderTimeout = answerTimeout
	return &transport{answering: answering, running: running, vigil: newVigil(patience)}
}

// RoundTrip sends the request. When the agent could not be reached at all, nothing was sent: then the agent is looked
// for once more, because the sandbox may have been paused a moment ago and can be woken.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	res, sent, err := t.attempt(x, req, x.endpoint)
	if err != nil && !sent && x.ctx.Err() == nil {
		var endpoint control.Endpoint
		if endpoint, err = x.resolve(x.ctx); err != nil {
			return nil, err
		}
		res, sent, err = t.attempt(x, req, endpoint)
		if err != nil && !sent {
			return nil, &sandbox.Error{Code: sandbox.CodeUnavailable, Message: "the sandbox could not be reached", Cause: err}
		}
	}
	if err != nil {
		return nil, err
	}
	x.status = res.StatusCode
	return checked(res)
}

// attempt sends the request to one endpoint; sent says whether the agent may have seen any of it.
func (t *transport) attempt(x *exchange, req *http.Request, endpoint control.Endpoint) (res *http.Response, sent bool, err error) {
	ctx, cancel := context.WithCancelCause(x.ctx)
	if endpoint.Gone != nil {
		go func() {
			select {
			case <-endpoint.Gone:
				cancel(errGone)
			case <-ctx.Done():
			}
		}()
	}
	t.vigil.keep(ctx, endpoint, cancel)
	var connected atomic.Bool
	out := req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}))
	out.URL.Host = endpoint.Addr.String()
	out.Header.Set(guestapi.SecretHeader, endpoint.Secret)
	if out.Body != nil {
		// The body is closed by the reverse proxy: a failed attempt must leave it for the next one.
		out.Body = io.NopCloser(out.Body)
	}
	rt := t.running
	if x.route.answers {
		rt = t.answering
	}
	res, err = rt.RoundTrip(out)
	if err = guestapi.BoundError(err); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) && x.ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", cause, err) // the sandbox stopped, or its agent is silent
		}
		cancel(nil)
		return nil, connected.Load(), err
	}
	// From now on the end of the sandbox ends the whole call, an upgraded connection too.
	context.AfterFunc(ctx, func() {
		x.cancel(context.Cause(ctx))
		cancel(nil)
	})
	return res, true, nil
}

// checked makes an answer safe to pass on.
func checked(res *http.Response) (*http.Response, error) {
	if s := res.StatusCode; s != http.StatusSwitchingProtocols && (s < 200 || s > 599) {
		_ = res.Body.Close()
		return nil, &sandbox.Error{Code: sandbox.CodeUnavailable, Message: fmt.Sprintf("the sandbox's agent answered with status %d", s)}
	}
	keep(res.Header, answerHeaders())
	// The copy has no trailers: the transport goes on filling those of the original.
	safe := *res
	safe.Trailer = nil
	return &safe, nil
}
