package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// attempts is how often a GET or DELETE is tried in all.
	attempts  = 3
	firstWait = 200 * time.Millisecond
	// maxWait bounds one wait, also one that the server asked for: beyond it the caller decides.
	maxWait = 30 * time.Second
	// maxAnswer bounds JSON answers: /exec has two streams of 4 MiB, which JSON escapes can make six times as long.
	maxAnswer = 64 << 20
)

// call is one request before it is sent.
type call struct {
	method string
	base   *url.URL
	// path is already escaped.
	path  string
	query url.Values
	// header holds the credentials and what else this call needs.
	header http.Header
	// json becomes the body; body is streamed. At most one of them is set.
	json any
	body io.Reader
	// contentLength of body, -1 when unknown.
	contentLength int64
}

// sleeper waits or gives up with the context's error.
type sleeper func(context.Context, time.Duration) error

func sleepContext(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// do sends the call, with retries where its method permits, and returns a 2xx answer, whose body the caller closes, or
// an error. retried says whether an earlier attempt may have reached the server.
func (c *Client) do(ctx context.Context, r call) (res *http.Response, retried bool, err error) {
	payload, err := r.payload()
	if err == nil {
		err = r.checkPath()
	}
	if err != nil {
		return nil, false, err
	}
	tries := 1
	if r.method == http.MethodGet || r.method == http.MethodDelete {
		tries = attempts
	}
	retried, err = c.retry(ctx, tries, func() error {
		var err error
		res, err = c.attempt(ctx, r, payload)
		return err
	})
	return res, retried, err
}

// retry makes up to so many attempts, waiting in between, until one succeeds or fails in a way that another would not
// mend.
func (c *Client) retry(ctx context.Context, tries int, attempt func() error) (retried bool, err error) {
	for try := 1; ; try++ {
		err = attempt()
		wait, again := retryWait(err, try)
		if err == nil || !again || try == tries || ctx.Err() != nil {
			return try > 1, err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
			return try > 1, err
		}
		if c.sleep(ctx, wait) != nil {
			return try > 1, err
		}
	}
}

// retryWait says whether an attempt's error may be tried again and after how long: exponential, with jitter over half
// of it, and never less than what the server asks for.
func retryWait(err error, try int) (time.Duration, bool) {
	backoff := firstWait << (try - 1)
	wait := backoff/2 + rand.N(backoff/2+1)
	e, answered := errors.AsType[*Error](err)
	if !answered {
		return wait, true
	}
	switch e.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return max(wait, e.RetryAfter), e.RetryAfter <= maxWait
	}
	return 0, false
}

// checkPath refuses ids and names that would make the path another call's.
func (r call) checkPath() error {
	for segment := range strings.SplitSeq(r.path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("the id or name is %q, which nothing has", segment)
		}
	}
	return nil
}

func (r call) payload() ([]byte, error) {
	if r.json == nil {
		return nil, nil
	}
	b, err := json.Marshal(r.json)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	return b, nil
}

// attempt sends the call once. Its error is an *Error when the server answered, plain otherwise.
func (c *Client) attempt(ctx context.Context, r call, payload []byte) (*http.Response, error) {
	u := r.base.String() + r.path
	if len(r.query) > 0 {
		u += "?" + r.query.Encode()
	}
	body := r.body
	if payload != nil {
		body = bytes.NewReader(payload)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u, body)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.userAgent)
	if payload != nil {
		req.Header.Set("Content-Type", "application/json")
	} else if r.body != nil {
		req.ContentLength = r.contentLength
		if r.contentLength == 0 {
			req.Body = http.NoBody
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer res.Body.Close()
		return nil, errorFrom(res)
	}
	return res, nil
}

// doJSON sends the call and decodes the answer into out (nil: the answer's body is not looked at).
func (c *Client) doJSON(ctx context.Context, r call, out any) (http.Header, error) {
	res, _, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if out == nil {
		return res.Header, nil
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if !json.Valid(raw) {
		return nil, ErrNotJSON
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return nil, fmt.Errorf("decoding the answer: %w", err)
	}
	return res.Header, nil
}

func (r call) setIdempotencyKey(key string) {
	if key != "" {
		r.header.Set("Idempotency-Key", key)
	}
}

// control starts a control-plane call.
func (c *Client) control(method, path string) call {
	h := http.Header{}
	if c.apiKey != "" {
		h.Set("X-Api-Key", c.apiKey)
	}
	return call{method: method, base: c.base, path: path, header: h}
}
