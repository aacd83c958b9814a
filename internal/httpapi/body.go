package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// maxBody is the largest control-plane body, in bytes.
	maxBody = 1 << 20
	// bodyTimeout bounds how long a control-plane body may take to arrive.
	bodyTimeout = 30 * time.Second
)

// readJSON reads the whole body, checks that it is exactly one JSON value in UTF-8, and leaves it to be read again. One
// that is empty is nil where it is optional.
func readJSON(w http.ResponseWriter, r *http.Request, optional bool) ([]byte, error) {
	control := http.NewResponseController(w)
	// A writer without deadlines, as in tests, only lacks the protection against slow bodies.
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, err
		}
		return nil, &sandbox.Error{Code: sandbox.CodeBadRequest, Message: "the request body could not be read", Cause: err}
	}
	_ = control.SetReadDeadline(time.Time{})
	if empty := len(bytes.TrimSpace(body)) == 0; empty && optional {
		r.Body = http.NoBody
		return nil, nil
	} else if empty {
		return nil, badRequest("the request body is empty; it must be a JSON object")
	}
	if !utf8.Valid(body) {
		return nil, badRequest("the request body is not valid UTF-8")
	}
	if !json.Valid(body) {
		return nil, badRequest("the request body is not one valid JSON value")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}
