package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxErrorBody is how much of an error answer is read.
const maxErrorBody = 64 << 10

// Error is an answer of the server that is not a success. Code is stable ("not_found", "conflict", …) and what to
// branch on; Message is for people.
type Error struct {
	// StatusCode is the HTTP status; 0 for an error event in an exec stream.
	StatusCode int
	// Code is the code of the answer, or "http_<status>" when something other than Superserve answered.
	Code    string
	Message string
	// RequestID names the request in the server's log.
	RequestID string
	// RetryAfter is how long the server asks to wait; 0 when it did not say.
	RetryAfter time.Duration
}

// Error says what happened in one line.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s", e.Code, e.Message)
	if e.RequestID != "" && e.StatusCode >= 500 {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// ErrNotJSON is inside the error of an answer that says it is a success and is not what this API answers with: whatever
// is at the base URL is no Superserve server.
var ErrNotJSON = errors.New("the answer is not JSON")

// CodeOf returns the code of the *Error in err's chain, "" when there is none.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// StatusOf returns the HTTP status of the *Error in err's chain, 0 when there is none.
func StatusOf(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.StatusCode
	}
	return 0
}

// IsNotFound says whether err is a 404: no such object, or another team's.
func IsNotFound(err error) bool { return StatusOf(err) == http.StatusNotFound }

// IsConflict says whether err is a 409: the object's state does not permit the call.
func IsConflict(err error) bool { return StatusOf(err) == http.StatusConflict }

// IsUnauthorized says whether err is a 401: missing, wrong, revoked or expired key or token.
func IsUnauthorized(err error) bool { return StatusOf(err) == http.StatusUnauthorized }

// IsBadRequest says whether err is a 400.
func IsBadRequest(err error) bool { return StatusOf(err) == http.StatusBadRequest }

// IsRateLimited says whether err is a 429: too many requests or a quota.
func IsRateLimited(err error) bool { return StatusOf(err) == http.StatusTooManyRequests }

// IsUnavailable says whether err is a 503: try again later.
func IsUnavailable(err error) bool { return StatusOf(err) == http.StatusServiceUnavailable }

// IsStorageFull says whether err is a 507: the sandbox's disk is full.
func IsStorageFull(err error) bool { return StatusOf(err) == http.StatusInsufficientStorage }

// errorFrom reads an error answer; it does not close the body.
func errorFrom(res *http.Response) *Error {
	e := &Error{
		StatusCode: res.StatusCode,
		Code:       "http_" + strconv.Itoa(res.StatusCode),
		Message:    "the server answered " + res.Status,
		RequestID:  res.Header.Get("X-Request-Id"),
		RetryAfter: retryAfter(res.Header.Get("Retry-After")),
	}
	var body struct {
		Error struct{ Code, Message string }
	}
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	if err == nil && json.Unmarshal(raw, &body) == nil && body.Error.Code != "" {
		e.Code, e.Message = body.Error.Code, body.Error.Message
	}
	return e
}

// retryAfter reads the header's seconds; dates are not used by this API.
func retryAfter(v string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n < 0 || n > 24*3600 {
		return 0
	}
	return time.Duration(n) * time.Second
}
