package edge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"sync"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// bufferSize is how much of an answer is in memory at once.
const bufferSize = 32 << 10

// resolver finds the agent, and wakes its sandbox when that is paused.
type resolver func(context.Context) (control.Endpoint, error)

// codeClientGone is seen in logs and metrics only: there is nobody left to tell.
const codeClientGone sandbox.Code = "client_gone"

// exchange is the state of one forwarded call. The reverse proxy, the transport and Serve share it by the context.
type exchange struct {
	route route
	// client ends when the client goes away.
	client  context.Context
	resolve resolver
	// endpoint is where the first attempt goes.
	endpoint control.Endpoint
	// ctx ends with the client, when the call is over, or when the sandbox stops; it has nothing of the reverse
	// proxy's, so that an agent's 1xx answers go nowhere.
	ctx    context.Context
	cancel context.CancelCauseFunc
	body   *requestBody
	status int
	err    error
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

func (x *exchange) fail(err error) { x.err = err }

// forward passes the request to the agent and its answer back.
func (e *Edge) forward(w http.ResponseWriter, r *http.Request, rt route, id string, resolve resolver) (err error) {
	start := time.Now()
	if noter, ok := w.(SandboxNoter); ok {
		noter.NoteSandbox(id)
	}
	x := &exchange{route: rt, client: r.Context(), resolve: resolve, body: newRequestBody(r)}
	finished := false
	defer func() {
		if !finished { // the reverse proxy panicked: the answer broke off
			err = x.explain(context.Cause(x.ctx))
		}
		e.metrics.Operation(rt.operation, time.Since(start), x.outcome(err))
	}()
	x.endpoint, err = resolve(r.Context())
	if err != nil {
		finished = true
		return err
	}
	x.ctx, x.cancel = context.WithCancelCause(r.Context())
	defer x.cancel(nil)
	x.body.over = x.ctx.Done()
	out := r.WithContext(context.WithValue(x.ctx, exchangeKey{}, x))
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = x.body
	}
	e.proxy.ServeHTTP(w, out)
	finished = true
	if x.err == nil {
		return nil
	}
	err = x.explain(x.err)
	level := slog.LevelWarn
	if sandbox.CodeOf(err) == codeClientGone {
		level = slog.LevelDebug
	}
	e.log.Log(r.Context(), level, "data-plane call failed", "sandbox", id, "call", rt.path, "error", err)
	return err
}

// outcome is what metrics are told.
func (x *exchange) outcome(err error) error {
	if err != nil || x.status < 400 {
		return err
	}
	return &sandbox.Error{Code: codeOfStatus(x.status), Message: "the agent refused"}
}

func codeOfStatus(status int) sandbox.Code {
	switch status {
	case http.StatusForbidden:
		return sandbox.CodeForbidden
	case http.StatusNotFound:
		return sandbox.CodeNotFound
	case http.StatusConflict:
		return sandbox.CodeConflict
	case http.StatusRequestEntityTooLarge:
		return sandbox.CodeTooLarge
	case http.StatusServiceUnavailable:
		return sandbox.CodeUnavailable
	case http.StatusInsufficientStorage:
		return sandbox.CodeStorageFull
	}
	if status < 500 {
		return sandbox.CodeBadRequest
	}
	return sandbox.CodeInternal
}

// explain turns an error of the reverse proxy into one for the client.
func (x *exchange) explain(err error) error {
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	if x.client.Err() != nil {
		return &sandbox.Error{Code: codeClientGone, Message: "the client went away", Cause: err}
	}
	if bodyErr := x.body.failure(); bodyErr != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](bodyErr); ok {
			return bodyErr
		}
		return &sandbox.Error{Code: sandbox.CodeBadRequest, Message: "the request's body broke off", Cause: bodyErr}
	}
	return errStopped(err)
}

func errStopped(cause error) error {
	return &sandbox.Error{Code: sandbox.CodeUnavailable, Cause: cause,
		Message: "the sandbox was paused or stopped while the call ran"}
}

// rewrite makes the request that the agent gets; the transport adds where it goes and the secret.
func rewrite(p *httputil.ProxyRequest) {
	x := exchangeOf(p.In.Context())
	p.Out.URL.Scheme, p.Out.URL.Host = "http", "boxd"
	p.Out.URL.Path, p.Out.URL.RawPath, p.Out.URL.RawQuery = x.route.path, "", p.In.URL.RawQuery
	p.Out.Host = "boxd"
	keep(p.Out.Header, requestHeaders())
	dropOwnProtocols(p.Out.Header)
	// An empty value keeps the standard client from adding its own.
	p.Out.Header["User-Agent"] = nil
}

// buffers are the reverse proxy's copy buffers.
type buffers struct{ pool sync.Pool }

// Get returns a buffer of bufferSize bytes.
func (b *buffers) Get() []byte { return *b.pool.Get().(*[]byte) }

// Put takes it back.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
