// Package apitest checks HTTP traffic against openapi.yaml, in tests: put Transport around any client, and every answer
// that does not follow the description fails the test.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/superserve/superserve/api"
)

// Load reads and validates the description. Schemas of answers alone are made strict: a field that the description
// does not have is an error.
func Load() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.Spec())
	if err != nil {
		return nil, fmt.Errorf("reading openapi.yaml: %w", err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, fmt.Errorf("openapi.yaml is not valid: %w", err)
	}
	for name, ref := range doc.Components.Schemas {
		s := ref.Value
		if s.Type.Is("object") && len(s.Properties) > 0 && !strings.HasSuffix(name, "Request") && name != "Network" {
			s.AdditionalProperties = openapi3.BoolSchema{Has: new(false)}
		}
	}
	return doc, nil
}

// Transport checks what passes through it. It may be used by many goroutines at once, until the test ends.
type Transport struct {
	t    testing.TB
	next http.RoundTripper
	doc  *openapi3.T

	mu   sync.Mutex
	seen map[string]map[int]bool
}

// NewTransport checks calls that next (nil: http.DefaultTransport) makes. An answer that breaks the contract fails t,
// and so does a success for a request that the description forbids. Bytes of files and event streams pass unread.
func NewTransport(t testing.TB, next http.RoundTripper) *Transport {
	t.Helper()
	doc, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if next == nil {
		next = http.DefaultTransport
	}
	return &Transport{t: t, next: next, doc: doc, seen: map[string]map[int]bool{}}
}

// Seen says which statuses each operation has answered with, by operationId.
func (tr *Transport) Seen() map[string]map[int]bool {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.seen
}

// RoundTrip makes the call and checks the answer.
func (tr *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	route, params := Match(tr.doc, req.Method, req.URL.EscapedPath())
	var body []byte
	if route != nil && req.Body != nil && isJSON(req.Header) {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	res, err := tr.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if err := tr.check(req, body, res, route, params); err != nil {
		tr.t.Errorf("%s %s answered %d against the API description: %v", req.Method, req.URL.Path, res.StatusCode, err)
	}
	return res, nil
}

func (tr *Transport) check(req *http.Request, body []byte, res *http.Response, route *routers.Route, params map[string]string) error {
	answer, streamed, err := buffered(res)
	if err != nil {
		return err
	}
	if res.Header.Get("X-Request-Id") == "" {
		return fmt.Errorf("no X-Request-Id")
	}
	if route == nil || res.StatusCode == http.StatusMethodNotAllowed {
		return checkError(res, answer)
	}
	tr.note(route.Operation.OperationID, res.StatusCode)
	in := &openapi3filter.RequestValidationInput{
		Request: withBody(req, body), PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
			ExcludeRequestBody:    body == nil,
			IncludeResponseStatus: true,
			SkipSettingDefaults:   true,
		},
	}
	if res.StatusCode < 300 {
		if err := openapi3filter.ValidateRequest(req.Context(), in); err != nil {
			return fmt.Errorf("a request that is not valid succeeded: %w", err)
		}
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: res.StatusCode, Header: res.Header, Options: in.Options,
	}
	if streamed || req.Method == http.MethodHead {
		opts := *in.Options
		opts.ExcludeResponseBody = true
		out.Options = &opts
	}
	out.SetBodyBytes(answer)
	return openapi3filter.ValidateResponse(req.Context(), out)
}

// buffered reads a JSON answer into memory and leaves it to be read again; anything else stays a stream.
func buffered(res *http.Response) (body []byte, streamed bool, err error) {
	if !isJSON(res.Header) && res.StatusCode < 300 && res.StatusCode != http.StatusNoContent {
		return nil, true, nil
	}
	if body, err = io.ReadAll(res.Body); err != nil {
		return nil, false, fmt.Errorf("reading the answer: %w", err)
	}
	_ = res.Body.Close()
	res.Body = io.NopCloser(bytes.NewReader(body))
	return body, false, nil
}

func isJSON(h http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && mediaType == "application/json"
}

func withBody(req *http.Request, body []byte) *http.Request {
	c := req.Clone(req.Context())
	c.Body = io.NopCloser(bytes.NewReader(body))
	return c
}

// checkError wants the common shape of errors, for answers outside any operation.
func checkError(res *http.Response, answer []byte) error {
	if res.StatusCode < 400 {
		return fmt.Errorf("not described")
	}
	if res.Request != nil && res.Request.Method == http.MethodHead {
		return nil
	}
	var body struct {
		Error *struct{ Code, Message string }
	}
	if err := json.Unmarshal(answer, &body); err != nil || body.Error == nil || body.Error.Code == "" || body.Error.Message == "" {
		return fmt.Errorf("not an error answer: %.200q", answer)
	}
	return nil
}

func (tr *Transport) note(operation string, status int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.seen[operation] == nil {
		tr.seen[operation] = map[int]bool{}
	}
	tr.seen[operation][status] = true
}

// Match finds the operation of a request by its escaped path; nil when there is none. HEAD counts as GET.
func Match(doc *openapi3.T, method, escapedPath string) (*routers.Route, map[string]string) {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for path, item := range doc.Paths.Map() {
		params, ok := matchPath(path, escapedPath)
		if !ok {
			continue
		}
		if op := item.GetOperation(method); op != nil {
			return &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op}, params
		}
	}
	return nil, nil
}

func matchPath(template, path string) (map[string]string, bool) {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return nil, false
	}
	params := map[string]string{}
	for i := range want {
		if strings.HasPrefix(want[i], "{") {
			value, err := url.PathUnescape(got[i])
			if err != nil || value == "" {
				return nil, false
			}
			params[strings.Trim(want[i], "{}")] = value
		} else if want[i] != got[i] {
			return nil, false
		}
	}
	return params, true
}
