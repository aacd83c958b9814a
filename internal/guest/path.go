package guest

import (
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/superserve/superserve/internal/guestapi"
)

// cleanPath checks a client's path and returns it without doubled slashes and dots. field names it in the error.
func cleanPath(field, p string) (string, error) {
	switch {
	case p == "":
		return "", badRequest("%s must not be empty", field)
	case len(p) > guestapi.MaxPath:
		return "", badRequest("%s must be at most %d bytes long", field, guestapi.MaxPath)
	case p[0] != '/':
		return "", badRequest("%s must be absolute", field)
	case hasNUL(p):
		return "", badRequest("%s must not contain NUL", field)
	case hasDotDot(p):
		return "", badRequest("%s must not have a .. segment", field)
	}
	return path.Clean(p), nil
}

func hasDotDot(p string) bool {
	for segment := range strings.SplitSeq(p, "/") {
		if segment == ".." {
			return true
		}
	}
	return false
}

// queryOf parses the query strictly: a malformed one must not silently lose a parameter.
func queryOf(r *http.Request) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("the query is malformed")
	}
	return q, nil
}

// pathQuery is the query and its path parameter.
func pathQuery(r *http.Request) (p string, q url.Values, err error) {
	if q, err = queryOf(r); err != nil {
		return "", nil, err
	}
	p, err = cleanPath("path", q.Get("path"))
	return p, q, err
}
