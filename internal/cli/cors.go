package cli

import (
	"net/http"
	"time"

	"github.com/rs/cors" // the preflight rules have too many corners to write them again
)

// withCORS lets pages of the configured origins call the API and the data plane. Cookies are never used, so a page can
// do no more than the key or token it has been given.
func (s *Server) withCORS(next http.Handler) http.Handler {
	if len(s.cfg.CORSOrigins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins: s.cfg.CORSOrigins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{
			"Content-Type", "Idempotency-Key", "Range", "X-Access-Token", "X-API-Key", "X-Superserve-Sandbox-Id",
		},
		ExposedHeaders: []string{
			"Content-Encoding", "Content-Length", "Content-Range", "Retry-After", "X-Request-Id", "X-Total-Count",
		},
		MaxAge: int((2 * time.Hour).Seconds()), // the longest that browsers keep a preflight's answer
	}).Handler(next)
}
