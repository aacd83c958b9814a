package builder

import (
	"context"
	"io"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
)

// Store is what a Builder needs of control.Store.
type Store interface {
	Build(ctx context.Context, id string) (*sandbox.Build, error)
	RunningBuilds(ctx context.Context) ([]*sandbox.Build, error)
	BuildIDs(ctx context.Context) ([]string, error)
	UpdateBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus) error
	CommitBuild(ctx context.Context, b *sandbox.Build, from sandbox.BuildStatus, t *sandbox.Template) error
	Template(ctx context.Context, id string) (*sandbox.Template, error)
	TemplateCheckpointIDs(ctx context.Context) ([]string, error)
	Uploads(ctx context.Context) ([]*sandbox.Upload, error)
}

// Images is what a Builder needs of image.Store.
type Images interface {
	Image(id string) (image.Image, error)
	Find(sourceHash string) (image.Image, error)
	Mount(ctx context.Context, id string) (rootDir string, err error)
	Pull(ctx context.Context, reference string, opts image.PullOptions) (image.Pulled, error)
	ImportLayout(ctx context.Context, file string, opts image.ImportOptions) (image.Pulled, error)
	FromTar(ctx context.Context, r io.Reader, opts image.TarOptions) (image.Image, error)
}

var (
	_ Images          = (*image.Store)(nil)
	_ Store           = control.Store(nil)
	_ control.Builder = (*Builder)(nil)
)
