package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/superserve/superserve/client/gen"
)

// CreateTemplateRequest says what template to make. Zero numbers stand for the server's defaults.
type CreateTemplateRequest struct {
	// Name is unique in the team: a-z, 0-9, '.', '_', '/' and '-', at most 128.
	Name      string    `json:"name"`
	VCPU      int       `json:"vcpu,omitempty"`
	MemoryMiB int       `json:"memory_mib,omitempty"`
	DiskMiB   int       `json:"disk_mib,omitempty"`
	Spec      BuildSpec `json:"build_spec"`
	// IdempotencyKey, 1-255 characters, makes it safe to send the same request again within 24 hours.
	IdempotencyKey string `json:"-"`
}

// RebuildRequest says what to change; zero fields stay as the latest build had them.
type RebuildRequest struct {
	VCPU           int        `json:"vcpu,omitempty"`
	MemoryMiB      int        `json:"memory_mib,omitempty"`
	DiskMiB        int        `json:"disk_mib,omitempty"`
	Spec           *BuildSpec `json:"build_spec,omitempty"`
	IdempotencyKey string     `json:"-"`
}

// ListTemplates reads the team's and the system's templates whose names start with namePrefix ("" for all).
func (c *Client) ListTemplates(ctx context.Context, namePrefix string) ([]Template, error) {
	r := c.control(http.MethodGet, "/templates")
	if namePrefix != "" {
		r.query = url.Values{"name_prefix": {namePrefix}}
	}
	var out []Template
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("listing templates: %w", err)
	}
	return out, nil
}

func templatePath(nameOrID string) string { return "/templates/" + url.PathEscape(nameOrID) }

func buildPath(nameOrID, buildID string) string {
	return templatePath(nameOrID) + "/builds/" + url.PathEscape(buildID)
}

// GetTemplate reads one template by name or UUID.
func (c *Client) GetTemplate(ctx context.Context, nameOrID string) (*Template, error) {
	var out Template
	if _, err := c.doJSON(ctx, c.control(http.MethodGet, templatePath(nameOrID)), &out); err != nil {
		return nil, fmt.Errorf("reading template %s: %w", nameOrID, err)
	}
	return &out, nil
}

// CreateTemplate has a template made; its first build, of which buildID is the id, goes on in the background. FollowBuild
// waits for it.
func (c *Client) CreateTemplate(ctx context.Context, req CreateTemplateRequest) (t *Template, buildID string, err error) {
	r := c.control(http.MethodPost, "/templates")
	r.json = req
	r.setIdempotencyKey(req.IdempotencyKey)
	var out gen.CreatedTemplate
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, "", fmt.Errorf("making template %s: %w", req.Name, err)
	}
	return &Template{
		ID: out.ID, TeamID: out.TeamID, Name: out.Name, Status: out.Status, Vcpu: out.Vcpu, MemoryMib: out.MemoryMib, DiskMib: out.DiskMib,
		SizeBytes: out.SizeBytes, ErrorMessage: out.ErrorMessage, CreatedAt: out.CreatedAt, BuiltAt: out.BuiltAt, LatestBuildID: out.LatestBuildID,
	}, out.BuildID, nil
}

// DeleteTemplate deletes a template that nothing needs. One that does not exist is an error that IsNotFound knows, except
// after a retry: then an earlier attempt may have deleted it.
func (c *Client) DeleteTemplate(ctx context.Context, nameOrID string) error {
	res, retried, err := c.do(ctx, c.control(http.MethodDelete, templatePath(nameOrID)))
	if err != nil {
		if retried && IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("deleting template %s: %w", nameOrID, err)
	}
	return res.Body.Close()
}

// RebuildTemplate has a template built again. When the same build is running already, that one is the answer.
func (c *Client) RebuildTemplate(ctx context.Context, nameOrID string, req RebuildRequest) (*Build, error) {
	r := c.control(http.MethodPost, templatePath(nameOrID)+"/builds")
	r.json = req
	r.setIdempotencyKey(req.IdempotencyKey)
	var out Build
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("building template %s: %w", nameOrID, err)
	}
	return &out, nil
}

// ListBuilds reads a template's latest builds, newest first; limit is 1-100, 0 for the server's default (20).
func (c *Client) ListBuilds(ctx context.Context, nameOrID string, limit int) ([]Build, error) {
	r := c.control(http.MethodGet, templatePath(nameOrID)+"/builds")
	if limit != 0 {
		r.query = url.Values{"limit": {strconv.Itoa(limit)}}
	}
	var out []Build
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("listing the builds of template %s: %w", nameOrID, err)
	}
	return out, nil
}

// GetBuild reads one build.
func (c *Client) GetBuild(ctx context.Context, nameOrID, buildID string) (*Build, error) {
	var out Build
	if _, err := c.doJSON(ctx, c.control(http.MethodGet, buildPath(nameOrID, buildID)), &out); err != nil {
		return nil, fmt.Errorf("reading build %s: %w", buildID, err)
	}
	return &out, nil
}

// CancelBuild ends a build and returns when it has ended; one that is over stays as it is.
func (c *Client) CancelBuild(ctx context.Context, nameOrID, buildID string) error {
	if _, err := c.doJSON(ctx, c.control(http.MethodDelete, buildPath(nameOrID, buildID)), nil); err != nil {
		return fmt.Errorf("cancelling build %s: %w", buildID, err)
	}
	return nil
}

// maxIdleCuts is how often in a row a log may break off without a new line before FollowBuild gives up.
const maxIdleCuts = 3

// FollowBuild gives each event of a build's log to each, from the first, and returns when the build is over: the last
// event tells how. A log that breaks off is asked for again, and what each has had is passed over. An error of each ends
// it.
func (c *Client) FollowBuild(ctx context.Context, nameOrID, buildID string, each func(*BuildLogEvent) error) error {
	had, idle := 0, 0
	for {
		seen := 0
		err := c.buildLog(ctx, nameOrID, buildID, true, func(e *BuildLogEvent) error {
			if seen++; seen <= had {
				return nil
			}
			had, idle = seen, 0
			return each(e)
		})
		if idle++; !errors.Is(err, ErrStreamCut) || ctx.Err() != nil || idle > maxIdleCuts {
			return err
		}
		if err := c.sleep(ctx, firstWait); err != nil {
			return err
		}
	}
}

// BuildLog gives each the events that there are of a build's log now. over says that these are all there will be.
func (c *Client) BuildLog(ctx context.Context, nameOrID, buildID string, each func(*BuildLogEvent) error) (over bool, err error) {
	err = c.buildLog(ctx, nameOrID, buildID, false, func(e *BuildLogEvent) error {
		over = over || e.Finished
		return each(e)
	})
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return over, err
}

// buildLog reads one stream of events. Its end without a last event is ErrStreamCut, and without follow io.EOF.
func (c *Client) buildLog(ctx context.Context, nameOrID, buildID string, follow bool, each func(*BuildLogEvent) error) error {
	r := c.control(http.MethodGet, buildPath(nameOrID, buildID)+"/logs")
	r.header.Set("Accept", "text/event-stream")
	r.query = url.Values{"follow": {strconv.FormatBool(follow)}}
	res, _, err := c.do(ctx, r)
	if err != nil {
		return fmt.Errorf("reading the log of build %s: %w", buildID, err)
	}
	defer res.Body.Close()
	whole := &endNoter{r: res.Body}
	events := newEventReader(whole)
	for {
		data, err := events.next()
		if err != nil && !follow && whole.ended {
			return io.EOF
		}
		if err != nil {
			return err
		}
		var e BuildLogEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("decoding an event: %w", err)
		}
		if err := each(&e); err != nil || e.Finished {
			return err
		}
	}
}

// endNoter notes that what it reads has come to its proper end.
type endNoter struct {
	r     io.Reader
	ended bool
}

func (n *endNoter) Read(p []byte) (int, error) {
	count, err := n.r.Read(p)
	n.ended = n.ended || errors.Is(err, io.EOF)
	return count, err
}

// UploadContext sends a tar with files for copy steps; the answer's digest is what CopyStep.Context names. size is its
// length, -1 when it is not known.
func (c *Client) UploadContext(ctx context.Context, tar io.Reader, size int64) (*Upload, error) {
	return c.upload(ctx, "/templates/contexts", tar, size)
}

// UploadImage sends an image as a tar, an OCI layout or what docker save writes; "upload:" and the answer's digest is what
// BuildSpec.From can be. size is its length, -1 when it is not known.
func (c *Client) UploadImage(ctx context.Context, tar io.Reader, size int64) (*Upload, error) {
	return c.upload(ctx, "/templates/images", tar, size)
}

func (c *Client) upload(ctx context.Context, path string, tar io.Reader, size int64) (*Upload, error) {
	r := c.control(http.MethodPost, path)
	r.header.Set("Content-Type", "application/x-tar")
	done, err := r.send(ctx, tar, size)
	if err != nil {
		return nil, fmt.Errorf("sending the files: %w", err)
	}
	defer done()
	var out Upload
	if _, err := c.doJSON(ctx, r, &out); err != nil {
		return nil, fmt.Errorf("sending the files: %w", err)
	}
	return &out, nil
}
