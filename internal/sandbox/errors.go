package sandbox

import (
	"errors"
	"fmt"
)

// Code is the stable machine-readable part of an error, in snake_case. Clients branch on it, so a code never changes
// its meaning.
type Code string

// The codes of wire section 1. Which HTTP status each one becomes is decided in one place, in httpapi.
const (
	CodeBadRequest       Code = "bad_request"
	CodeNotSupported     Code = "not_supported"
	CodeIsDirectory      Code = "is_directory"
	CodeUnauthorized     Code = "unauthorized"
	CodeForbidden        Code = "forbidden"
	CodeNotFound         Code = "not_found"
	CodeConflict         Code = "conflict"
	CodeTooLarge         Code = "too_large"
	CodeRateLimited      Code = "rate_limited"
	CodeTooManySandboxes Code = "too_many_sandboxes"
	CodeTooManyTemplates Code = "too_many_templates"
	CodeTooManyBuilds    Code = "too_many_builds"
	CodeInternal         Code = "internal_error"
	CodeUnavailable      Code = "unavailable"
	CodeStorageFull      Code = "sandbox_storage_full"
)

// Error is a failure a client is told about. Message is for people: it names the field and the limit and never holds
// a host path, SQL or a stack trace. What the operator needs besides travels in Cause, which only the log shows.
type Error struct {
	Code    Code
	Message string
	Cause   error
	// RetryAfterSeconds becomes the Retry-After header; 0 sends none.
	RetryAfterSeconds int
}

// Error shows the message and, for the log, the cause.
func (e *Error) Error() string {
	if e.Cause == nil {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error; like fmt.Errorf, a %w argument becomes its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// Internal hides cause behind a message that is safe to show: doing says what failed, such as "starting the sandbox".
func Internal(doing string, cause error) *Error {
	return &Error{Code: CodeInternal, Message: doing + " failed; the server's log has the details", Cause: cause}
}

// CodeOf returns the code of the first Error in err's chain, CodeInternal for any other error, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// ErrNotFound answers for an object that does not exist or belongs to another team: the two must look the same.
func ErrNotFound(what string) *Error { return Errorf(CodeNotFound, "%s not found", what) }
