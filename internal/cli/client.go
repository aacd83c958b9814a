package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/sandbox"
)

const defaultBaseURL = client.DefaultBaseURL

// errNoKey says how to come by a key.
var errNoKey = errors.New("SUPERSERVE_API_KEY is not set; a server's first key is in the file api-key of its data directory")

// client is a client of the server that the environment names.
func (a *App) client() (*client.Client, error) {
	key := a.getenv("SUPERSERVE_API_KEY")
	if key == "" {
		return nil, errNoKey
	}
	if printable(key) != key {
		return nil, errors.New("SUPERSERVE_API_KEY holds a character that no key has, such as a line break")
	}
	return a.clientFor(a.getenv("SUPERSERVE_BASE_URL"), key)
}

// clientFor makes a client that trusts the authorities of SUPERSERVE_CA_FILE besides the system's.
func (a *App) clientFor(baseURL, key string) (*client.Client, error) {
	file := a.getenv("SUPERSERVE_CA_FILE")
	if file == "" {
		return a.newClient(baseURL, key)
	}
	pool, err := client.LoadRootCAs(file)
	if err != nil {
		return nil, fmt.Errorf("SUPERSERVE_CA_FILE: %w", err)
	}
	return a.newClient(baseURL, key, client.WithRootCAs(pool))
}

func (a *App) newClient(baseURL, key string, opts ...client.Option) (*client.Client, error) {
	if baseURL == "" {
		baseURL = defaultBaseURL
	}
	c, err := client.New(baseURL, key, append(opts, client.WithUserAgent("superserve-cli/"+a.Version))...)
	if err != nil {
		return nil, fmt.Errorf("SUPERSERVE_BASE_URL: %w", err)
	}
	return c, nil
}

// explain is an error in one line that says how to mend it.
func (a *App) explain(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*sandbox.Error](err); ok && e.Cause == nil {
		text = strings.Replace(text, string(e.Code)+": ", "", 1)
	}
	return oneLine(text) + hint(err)
}

// oneLine joins the lines of an error, but keeps indented ones, which are the doctor's lists.
func oneLine(text string) string {
	var b strings.Builder
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		switch {
		case i == 0:
		case strings.HasPrefix(line, "  "):
			b.WriteString("\n")
		default:
			b.WriteString("; ")
		}
		b.WriteString(printable(line))
	}
	return b.String()
}

func hint(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		switch e.Code {
		case "unauthorized":
			return "; check SUPERSERVE_API_KEY (superserve key list on the server shows which keys are valid)"
		case "not_found":
			return hintMissing(e.Message)
		case "too_many_templates":
			return "; delete some with superserve template delete, or raise the server's template-quota"
		case "too_many_builds":
			return "; wait for one, end one with superserve template cancel, or raise the server's build-quota"
		case "too_many_sandboxes":
			return "; delete some with superserve sandbox kill, or raise the server's sandbox-quota"
		case "rate_limited":
			if e.RetryAfter > 0 {
				return fmt.Sprintf("; the server asks to wait %s", e.RetryAfter)
			}
		}
		if e.StatusCode >= 502 && e.StatusCode <= 504 && strings.HasPrefix(e.Code, "http_") {
			return "; something in front of the server answered for it: is the server running?"
		}
		if strings.HasPrefix(e.Code, "http_") {
			return "; is SUPERSERVE_BASE_URL really a Superserve server, and https:// if it has TLS?"
		}
		return ""
	}
	if errors.Is(err, client.ErrNotJSON) {
		return "; is SUPERSERVE_BASE_URL really a Superserve server?"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "; SUPERSERVE_CA_FILE names a PEM file with the authority to trust (superserve ca show prints the server's own)"
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return "; the server has no TLS: use http:// in SUPERSERVE_BASE_URL"
	}
	if u, ok := errors.AsType[*url.Error](err); ok && !errors.Is(err, context.Canceled) {
		if _, network := errors.AsType[*net.OpError](u.Err); network {
			return "; is the server running? SUPERSERVE_BASE_URL names another one"
		}
	}
	return ""
}

// hintMissing says where to look for what a 404 has not found.
func hintMissing(message string) string {
	switch message {
	case "sandbox not found":
		return "; superserve sandbox list shows the ids"
	case "template not found":
		return "; superserve template list shows the names"
	case "snapshot not found":
		return "; superserve sandbox get shows the snapshot of a paused sandbox"
	case "build not found":
		return "; superserve template get shows the latest builds"
	case "there is no such path":
		return "; is SUPERSERVE_BASE_URL right, and the server not older than this program?"
	}
	return "" // a file or a session, which says enough
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
