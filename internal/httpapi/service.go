package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// Service is the control plane's use cases; *control.Service is one. Errors for clients are *sandbox.Error, all others
// are told as internal_error and logged.
type Service interface {
	// Authenticate finds out who an API key belongs to: unauthorized for a wrong, revoked or expired one.
	Authenticate(ctx context.Context, apiKey string) (control.Principal, error)
	// Allow takes one request of the team's rate: rate_limited when there is none left.
	Allow(teamID string) error

	CreateSandbox(ctx context.Context, p control.Principal, req control.CreateRequest) (*sandbox.Sandbox, error)
	GetSandbox(ctx context.Context, p control.Principal, id string) (*sandbox.Sandbox, error)
	ListSandboxes(ctx context.Context, p control.Principal, req control.ListRequest) (page []*sandbox.Sandbox, total int, err error)
	PatchSandbox(ctx context.Context, p control.Principal, id string, req control.PatchRequest) error
	DeleteSandbox(ctx context.Context, p control.Principal, id string) error
	PauseSandbox(ctx context.Context, p control.Principal, id string) error
	ResumeSandbox(ctx context.Context, p control.Principal, id string) (*sandbox.Sandbox, error)
	ActivateSandbox(ctx context.Context, p control.Principal, id string) (*sandbox.Sandbox, error)
	NetworkLog(ctx context.Context, p control.Principal, id string, req control.NetworkLogRequest) (*control.NetworkLogPage, error)
	// AccessToken is the data-plane token of a sandbox as it is now.
	AccessToken(sb *sandbox.Sandbox) string

	ListTemplates(ctx context.Context, p control.Principal, namePrefix string) ([]*sandbox.Template, error)
	GetTemplate(ctx context.Context, p control.Principal, nameOrID string) (*sandbox.Template, error)
	CreateTemplate(ctx context.Context, p control.Principal, req control.TemplateRequest) (*sandbox.Template, *sandbox.Build, error)
	DeleteTemplate(ctx context.Context, p control.Principal, nameOrID string) error
	// RebuildTemplate says with created false that the build was there already.
	RebuildTemplate(ctx context.Context, p control.Principal, nameOrID string, req control.BuildRequest) (b *sandbox.Build, created bool, err error)
	GetBuild(ctx context.Context, p control.Principal, nameOrID, buildID string) (*sandbox.Build, error)
	ListBuilds(ctx context.Context, p control.Principal, nameOrID string, limit int) ([]*sandbox.Build, error)
	CancelBuild(ctx context.Context, p control.Principal, nameOrID, buildID string) error
	// BuildLogs finds a log; follow emits it until the build is over, emit fails or its ctx ends.
	BuildLogs(ctx context.Context, p control.Principal, nameOrID, buildID string) (follow control.FollowLog, err error)
	PutUpload(ctx context.Context, p control.Principal, kind sandbox.UploadKind, r io.Reader) (*sandbox.Upload, error)
}

// Edge is the data plane; *edge.Edge is one. An error of Serve or ServeTeam means that nothing has been written.
type Edge interface {
	// Owns says whether a request is the data plane's, by its host name or its path.
	Owns(r *http.Request) bool
	// Serve answers it; the access token is the edge's to check.
	Serve(w http.ResponseWriter, r *http.Request) error
	// ServeTeam answers the data plane's call at path for a team whose API key has been checked.
	ServeTeam(w http.ResponseWriter, r *http.Request, p control.Principal, sandboxID, path string) error
}

// Config is what New needs. Service and Edge are required.
type Config struct {
	Service Service
	Edge    Edge
	// Version is shown by /health.
	Version string
	// PublicURL is the origin that becomes data_plane_url, without a trailing slash. "": the one the client used, by its
	// Host header.
	PublicURL string
	// Ready lists what the server still waits for; none means ready. nil: always ready.
	Ready  func(ctx context.Context) []Waiting
	Logger *slog.Logger // nil: no log
	// KeyCheck is how soon a request that lasts ends when its API key is revoked or expires; default 10 s.
	KeyCheck time.Duration
}

// Waiting is one thing that a starting server waits for.
type Waiting struct {
	What string // such as "template superserve/base"
	Step string // what is being done now
	// Done of Total units of the step are done; Total 0: unknown.
	Done, Total int64
}
