package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/superserve/superserve/internal/httpapi/gen"
	"github.com/superserve/superserve/internal/sandbox"
)

// statusOf maps a code to its HTTP status (wire section 1). Codes without a line are failures of the server.
func statusOf(code sandbox.Code) int {
	switch code {
	case sandbox.CodeBadRequest, sandbox.CodeNotSupported, sandbox.CodeIsDirectory:
		return http.StatusBadRequest
	case sandbox.CodeUnauthorized:
		return http.StatusUnauthorized
	case sandbox.CodeForbidden:
		return http.StatusForbidden
	case sandbox.CodeNotFound:
		return http.StatusNotFound
	case sandbox.CodeConflict:
		return http.StatusConflict
	case sandbox.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case sandbox.CodeRateLimited, sandbox.CodeTooManySandboxes, sandbox.CodeTooManyTemplates, sandbox.CodeTooManyBuilds:
		return http.StatusTooManyRequests
	case sandbox.CodeUnavailable:
		return http.StatusServiceUnavailable
	case sandbox.CodeStorageFull:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// statusError is an error that has a status other than its code's: a wrong method.
type statusError interface {
	error
	HTTPStatus() int
}

// asClientError finds what the client is told of err.
func asClientError(err error) *sandbox.Error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return sandbox.Errorf(sandbox.CodeTooLarge, "the request body is larger than %d bytes", tooLarge.Limit)
	}
	if e, ok := errors.AsType[*sandbox.Error](err); ok {
		if statusOf(e.Code) == http.StatusInternalServerError && e.Code != sandbox.CodeInternal {
			return &sandbox.Error{Code: sandbox.CodeInternal, Message: e.Message}
		}
		return e
	}
	return &sandbox.Error{Code: sandbox.CodeInternal, Message: "internal error; the server's log has the details"}
}

// WriteError answers with err, when nothing has been written yet, and notes it for the access log.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	err = reasonOf(r.Context(), err)
	e := asClientError(err)
	status := statusOf(e.Code)
	if s, ok := errors.AsType[statusError](err); ok {
		status = s.HTTPStatus()
	}
	if rec, ok := w.(*recorder); ok {
		rec.err = err
	}
	retry := e.RetryAfterSeconds
	if status == http.StatusTooManyRequests {
		retry = max(retry, 1)
	}
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(retry))
	}
	var body gen.Error
	body.Error.Code, body.Error.Message = string(e.Code), e.Message
	b, err := json.Marshal(body)
	if err != nil { // two strings; can't happen
		b = []byte(`{"error":{"code":"internal_error","message":"internal error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// limits are the lowest and the highest value of a number.
type limits struct{ lowest, highest int }

// numberLimits are the limits of the query parameters and body fields that are numbers.
func numberLimits() map[string]limits {
	return map[string]limits{
		"limit": {1, maxLimit}, "offset": {0, maxOffset},
		"timeout_seconds": {1, sandbox.MaxTimeoutSeconds}, "auto_delete_seconds": {0, sandbox.MaxAutoDeleteSeconds},
	}
}

// paramError words the generated server's complaint about a query parameter or header.
func paramError(err error) error {
	if e, ok := errors.AsType[*gen.InvalidParamFormatError](err); ok {
		if limits, ok := numberLimits()[e.ParamName]; ok {
			return badRequest("%s must be a number from %d to %d", e.ParamName, limits.lowest, limits.highest)
		}
		return badRequest("%s is not valid", e.ParamName)
	}
	if e, ok := errors.AsType[*gen.TooManyValuesForParamError](err); ok {
		return badRequest("%s is given more than once", e.ParamName)
	}
	if _, ok := errors.AsType[*sandbox.Error](err); ok {
		return err
	}
	return &sandbox.Error{Code: sandbox.CodeBadRequest, Message: "the request is not valid", Cause: err}
}

func badRequest(format string, args ...any) error {
	return &sandbox.Error{Code: sandbox.CodeBadRequest, Message: fmt.Sprintf(format, args...)}
}

// methodNotAllowed answers a known path's unknown method.
type methodNotAllowed struct{ err *sandbox.Error }

func (e methodNotAllowed) Error() string { return e.err.Error() }

func (e methodNotAllowed) Unwrap() error { return e.err }

// HTTPStatus overrides the status of the error's code.
func (methodNotAllowed) HTTPStatus() int { return http.StatusMethodNotAllowed }
