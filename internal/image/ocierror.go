package image

import (
	"errors"

	"github.com/superserve/superserve/internal/image/unpack"
)

// Code is the part of a build's error_message before the colon.
type Code string

// The codes that getting an image can fail with. Failures of the server itself (a full disk, a missing tool) are a
// *BuildError instead.
const (
	// CodeBadReference: the reference can't be parsed, or names no single image.
	CodeBadReference Code = "bad_reference"
	// CodeUnsupportedPlatform: there is no image for the host's platform under the reference.
	CodeUnsupportedPlatform Code = "unsupported_platform"
	// CodePullFailed: the registry refused, could not be reached, or gave something else than it should.
	CodePullFailed Code = "image_pull_failed"
	// CodeUnsafe: a layer tries to leave the root file system, or is damaged.
	CodeUnsafe Code = "image_unsafe"
	// CodeTooLarge: the image goes over one of the Limits.
	CodeTooLarge Code = "image_too_large"
)

// Error says why an image can't be had.
type Error struct {
	Code Code
	// Detail is for the API's clients: it names no path of the host.
	Detail string
	// Err is the cause, for the operator's log; may be nil.
	Err error
}

// Error is Message with the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message()
	}
	return e.Message() + ": " + e.Err.Error()
}

// Message is "<code>: detail", the form of a build's error_message.
func (e *Error) Message() string { return string(e.Code) + ": " + e.Detail }

// Unwrap gives the cause to errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// layerError gives an error of the unpacker its code. what names the layer.
func layerError(what string, err error) error {
	if refused, ok := errors.AsType[*unpack.UnsafeError](err); ok {
		return &Error{Code: CodeUnsafe, Detail: what + ": " + refused.Error()}
	}
	if refused, ok := errors.AsType[*unpack.TooLargeError](err); ok {
		return &Error{Code: CodeTooLarge, Detail: what + ": " + refused.Error()}
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return &BuildError{Step: stepUnpack, Err: err}
}
