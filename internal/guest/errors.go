package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/superserve/superserve/internal/guestapi"
)

// The codes of wire section 1 that the agent uses.
const (
	codeBadRequest   = "bad_request"
	codeIsDirectory  = "is_directory"
	codeUnauthorized = "unauthorized"
	codeForbidden    = "forbidden"
	codeNotFound     = "not_found"
	codeConflict     = "conflict"
	codeTooLarge     = "too_large"
	codeInternal     = "internal_error"
	codeUnavailable  = "unavailable"
	codeStorageFull  = "sandbox_storage_full"
)

// apiError is an answer other than success.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func newError(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *apiError {
	return newError(http.StatusBadRequest, codeBadRequest, format, args...)
}

func forbidden(format string, args ...any) *apiError {
	return newError(http.StatusForbidden, codeForbidden, format, args...)
}

func conflict(format string, args ...any) *apiError {
	return newError(http.StatusConflict, codeConflict, format, args...)
}

func tooLarge(format string, args ...any) *apiError {
	return newError(http.StatusRequestEntityTooLarge, codeTooLarge, format, args...)
}

func unavailable(format string, args ...any) *apiError {
	return newError(http.StatusServiceUnavailable, codeUnavailable, format, args...)
}

func isDirectory(path string) *apiError {
	return newError(http.StatusBadRequest, codeIsDirectory, "%s is a directory", path)
}

func notFound(path string) *apiError {
	return newError(http.StatusNotFound, codeNotFound, "%s does not exist", path)
}

// fileError turns an operating system error met at path into an answer. creating says that the call was to make
// something: then a name that is too long, or a parent that is a file, is the caller's mistake, while for the other
// calls it means that there is no such file.
func fileError(err error, path string, creating bool) *apiError {
	if api, ok := errors.AsType[*apiError](err); ok {
		return api
	}
	errno, _ := errors.AsType[syscall.Errno](err)
	switch errno {
	case syscall.ENOENT:
		return notFound(path)
	case syscall.ENOTDIR:
		if creating {
			return badRequest("a parent of %s is not a directory", path)
		}
		return notFound(path)
	case syscall.ENAMETOOLONG:
		if creating {
			return badRequest("path: the file system takes no name or path of this length")
		}
		return notFound("path")
	case syscall.EISDIR:
		return isDirectory(path)
	case syscall.EACCES, syscall.EPERM, syscall.EROFS:
		return newError(http.StatusForbidden, codeForbidden, "%s: %s", path, errno)
	case syscall.ENOSPC, syscall.EDQUOT:
		return newError(http.StatusInsufficientStorage, codeStorageFull, "the sandbox's disk is full")
	case syscall.ELOOP, syscall.EINVAL, syscall.ENXIO:
		return badRequest("%s: %s", path, errno)
	case syscall.ENOTEMPTY, syscall.EEXIST, syscall.EBUSY, syscall.ETXTBSY:
		return conflict("%s: %s", path, errno)
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN:
		return unavailable("the sandbox has no resources left: %s", errno)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return notFound(path)
	}
	return newError(http.StatusInternalServerError, codeInternal, "%s: %s", path, err)
}

func writeError(w http.ResponseWriter, err error) {
	api, ok := errors.AsType[*apiError](err)
	if !ok {
		api = newError(http.StatusInternalServerError, codeInternal, "%s", err)
	}
	writeJSON(w, api.status, guestapi.ErrorBody{Error: guestapi.ErrorDetail{Code: api.code, Message: api.message}})
}

// writeJSON answers with v. A client that is gone is no error to anyone.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"code":"internal_error","message":"encoding the answer failed"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}
