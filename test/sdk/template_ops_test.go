package sdk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/superserve/superserve/client"
)

// templateOperations are those about templates.
func templateOperations() map[string]operation {
	return map[string]operation{
		"template_list": templateList, "template_get": templateGet, "template_create": templateCreate,
		"template_delete_by_id": templateDeleteByID, "template_info": templateInfo, "template_delete": templateDelete,
		"template_rebuild": templateRebuild, "template_builds": templateBuilds, "template_build": templateBuild,
		"template_cancel": templateCancel, "template_logs": templateLogs, "template_wait": templateWait,
		"template_upload": templateUpload,
	}
}

// template is a bound template.
type template struct {
	client.Template
	api *client.Client
	// begun is the build that was begun last by way of this object.
	begun string
}

// Fields are those of TemplateInfo.
func (t *template) Fields() map[string]any {
	out := map[string]any{
		"id": t.ID, "team_id": t.TeamID, "name": t.Name, "status": string(t.Status), "vcpu": t.Vcpu,
		"memory_mib": t.MemoryMib, "disk_mib": t.DiskMib, "created_at": t.CreatedAt,
	}
	setText(out, map[string]string{"error_message": t.ErrorMessage, "latest_build_id": t.LatestBuildID, "progress": t.Progress})
	if t.SizeBytes != 0 {
		out["size_bytes"] = t.SizeBytes
	}
	if t.BuiltAt != nil {
		out["built_at"] = *t.BuiltAt
	}
	return out
}

// setText sets what is not empty.
func setText(out map[string]any, fields map[string]string) {
	for name, v := range fields {
		if v != "" {
			out[name] = v
		}
	}
}

func (c *call) template() *template {
	return c.on.(*template) // the list's check has made sure
}

// fromTemplate is a name, an id or a bound template.
func (c *call) fromTemplate() string {
	if t, ok := c.args["from_template"].(*template); ok {
		return t.ID
	}
	return c.text("from_template")
}

// buildID is the build that a call on a template is about.
func (c *call) buildID(ctx context.Context) (string, error) {
	t := c.template()
	for _, id := range []string{c.text("build_id"), t.begun} {
		if id != "" {
			return id, nil
		}
	}
	now, err := t.api.GetTemplate(ctx, t.ID)
	if err != nil {
		return "", err
	}
	return now.LatestBuildID, nil
}

// spec is what is to be built; nil when nothing is given.
func (c *call) spec() *client.BuildSpec {
	out := client.BuildSpec{
		From: c.text("from"), FromTemplate: c.fromTemplate(), StartCmd: c.text("start_cmd"), ReadyCmd: c.text("ready_cmd"),
	}
	for _, raw := range arg[[]any](c, "steps") {
		out.Steps = append(out.Steps, c.step(raw))
	}
	if out.From+out.FromTemplate+out.StartCmd+out.ReadyCmd == "" && out.Steps == nil {
		return nil
	}
	return &out
}

func (c *call) step(raw any) client.BuildStep {
	fields, ok := raw.(map[string]any)
	if !ok {
		c.wrong = fmt.Errorf("a step is a %T", raw)
		return client.BuildStep{}
	}
	in := &call{args: fields}
	out := client.BuildStep{Run: in.text("run"), Workdir: in.text("workdir")}
	if env := arg[map[string]any](in, "env"); env != nil {
		e := &call{args: env}
		out.Env = &client.EnvStep{Key: e.text("key"), Value: e.text("value"), Expand: arg[bool](e, "expand")}
	}
	if user := arg[map[string]any](in, "user"); user != nil {
		u := &call{args: user}
		out.User = &client.UserStep{Name: u.text("name"), Sudo: arg[bool](u, "sudo")}
	}
	if files := arg[map[string]any](in, "copy"); files != nil {
		f := &call{args: files}
		out.Copy = &client.CopyStep{Context: f.text("context"), Src: list(files["src"]), Dst: f.text("dst"), Chown: f.text("chown")}
	}
	return out
}

func templateUpload(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	data := c.bytes("tar")
	send, image := api.UploadContext, c.text("kind") == "image"
	if image {
		send = api.UploadImage
	}
	u, err := send(c.ctx, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	out := map[string]any{"digest": u.Digest, "size_bytes": u.Size}
	if image {
		out["from"] = "upload:" + u.Digest
	}
	return out, nil
}

func templateList(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	all, err := api.ListTemplates(c.ctx, c.text("name_prefix"))
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, t := range all {
		out = append(out, (&template{Template: t}).Fields())
	}
	return out, nil
}

func templateGet(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	t, err := api.GetTemplate(c.ctx, c.text("name_or_id"))
	if err != nil {
		return nil, err
	}
	return &template{Template: *t, api: api}, nil
}

func templateCreate(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	req := client.CreateTemplateRequest{
		Name: c.text("name"), VCPU: c.number("vcpu"), MemoryMiB: c.number("memory_mib"), DiskMiB: c.number("disk_mib"),
	}
	if spec := c.spec(); spec != nil {
		req.Spec = *spec
	}
	t, build, err := api.CreateTemplate(c.ctx, req)
	if err != nil {
		return nil, err
	}
	c.templates = append(c.templates, t.ID)
	return &template{Template: *t, api: api, begun: build}, nil
}

// dropTemplate deletes a template whose latest build may still run.
func dropTemplate(ctx context.Context, api *client.Client, id string) error {
	builds, err := api.ListBuilds(ctx, id, 1)
	if err != nil {
		return err
	}
	for _, b := range builds {
		if err := api.CancelBuild(ctx, id, b.ID); err != nil {
			return err
		}
	}
	return api.DeleteTemplate(ctx, id)
}

// unlessGone is what an idempotent delete is in Go.
func unlessGone(err error) error {
	if client.IsNotFound(err) {
		return nil
	}
	return err
}

func templateDeleteByID(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	return nil, unlessGone(api.DeleteTemplate(c.ctx, c.text("name_or_id")))
}

func templateDelete(c *call) (any, error) {
	return nil, unlessGone(c.template().api.DeleteTemplate(c.ctx, c.template().ID))
}

func templateInfo(c *call) (any, error) {
	t, err := c.template().api.GetTemplate(c.ctx, c.template().ID)
	if err != nil {
		return nil, err
	}
	return (&template{Template: *t}).Fields(), nil
}

// buildInfo is a BuildInfo as plain data.
func buildInfo(b *client.Build) map[string]any {
	out := map[string]any{
		"id": b.ID, "template_id": b.TemplateID, "status": string(b.Status), "build_spec_hash": b.BuildSpecHash,
		"created_at": b.CreatedAt,
	}
	setText(out, map[string]string{"error_message": b.ErrorMessage})
	if b.StartedAt != nil {
		out["started_at"] = *b.StartedAt
	}
	if b.FinalizedAt != nil {
		out["finalized_at"] = *b.FinalizedAt
	}
	return out
}

func templateRebuild(c *call) (any, error) {
	t := c.template()
	b, err := t.api.RebuildTemplate(c.ctx, t.ID, client.RebuildRequest{
		VCPU: c.number("vcpu"), MemoryMiB: c.number("memory_mib"), DiskMiB: c.number("disk_mib"), Spec: c.spec(),
	})
	if err != nil {
		return nil, err
	}
	t.begun = b.ID
	return buildInfo(b), nil
}

func templateBuilds(c *call) (any, error) {
	all, err := c.template().api.ListBuilds(c.ctx, c.template().ID, c.number("limit"))
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, b := range all {
		out = append(out, buildInfo(&b))
	}
	return out, nil
}

func templateBuild(c *call) (any, error) {
	b, err := c.template().api.GetBuild(c.ctx, c.template().ID, c.text("build_id"))
	if err != nil {
		return nil, err
	}
	return buildInfo(b), nil
}

func templateCancel(c *call) (any, error) {
	return nil, unlessGone(c.template().api.CancelBuild(c.ctx, c.template().ID, c.text("build_id")))
}

// follow reads a build's log to its end.
func (c *call) follow(ctx context.Context, build string) ([]any, error) {
	out := []any{}
	err := c.template().api.FollowBuild(ctx, c.template().ID, build, func(e *client.BuildLogEvent) error {
		row := map[string]any{"timestamp": e.Timestamp, "stream": string(e.Stream), "text": e.Text}
		setText(row, map[string]string{"status": string(e.Status)})
		if e.Finished {
			row["finished"] = true
		}
		out = append(out, row)
		return nil
	})
	return out, err
}

func templateLogs(c *call) (any, error) {
	build, err := c.buildID(c.ctx)
	if err != nil {
		return nil, err
	}
	return c.follow(c.ctx, build)
}

// buildFailure is a build that ended otherwise than ready.
type buildFailure struct {
	status  int // of the class that SDKs have for it; 0 for BuildError
	code    string
	message string
}

func (b *buildFailure) Error() string { return b.code + ": " + b.message }

// templateWait does what the SDKs' waitUntilReady does.
func templateWait(c *call) (any, error) {
	ctx, done := c.abortable()
	defer done()
	build, err := c.buildID(ctx)
	if err != nil {
		return nil, err
	}
	t := c.template()
	var log []any
	if build != "" { // else a system template
		if log, err = c.follow(ctx, build); err != nil {
			return nil, err
		}
		if err := ended(ctx, t, build); err != nil {
			return nil, err
		}
	}
	now, err := t.api.GetTemplate(ctx, t.ID)
	if err != nil {
		return nil, err
	}
	out := (&template{Template: *now}).Fields()
	if c.args["with_log"] == true {
		out["log"] = log
	}
	return out, nil
}

// ended says how a build ended whose log is over.
func ended(ctx context.Context, t *template, build string) error {
	b, err := t.api.GetBuild(ctx, t.ID, build)
	if err != nil {
		return err
	}
	switch b.Status {
	case client.BuildReady:
		return nil
	case client.BuildCancelled:
		return &buildFailure{status: 409, code: "cancelled", message: "the build was cancelled"}
	case client.BuildFailed:
		code, detail, _ := strings.Cut(b.ErrorMessage, ": ")
		return &buildFailure{code: code, message: detail}
	}
	return errors.New("its log is over, but the build is " + string(b.Status))
}
