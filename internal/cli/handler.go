package cli

import (
	"context"
	"net/http"

	"github.com/superserve/superserve/internal/edge"
	"github.com/superserve/superserve/internal/httpapi"
)

// newHandler makes the one handler of the main listener: control plane, health, readiness and data plane.
func (s *Server) newHandler() http.Handler {
	return s.withCORS(httpapi.New(httpapi.Config{
		Service: s.control,
		Edge: edge.New(edge.Config{
			Agents: s.control, SandboxHost: s.cfg.SandboxHost, Logger: s.log, Metrics: s.metrics.DataPlane(),
		}),
		Version:   s.sc.Version,
		PublicURL: s.cfg.PublicURL,
		Ready:     func(context.Context) []Waiting { return s.host.Waiting() },
		Logger:    s.log,
	}))
}
