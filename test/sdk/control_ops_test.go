package sdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/superserve/superserve/client"
)

// operation is one of the scenarios' operations, done with the Go client.
type operation func(*call) (any, error)

func operations() map[string]operation {
	return map[string]operation{
		"create": create, "connect": connect, "list": listBoxes, "kill_by_id": killByID, "update_by_id": updateByID,
		"get_info": getInfo, "pause": pause, "resume": resume, "kill": kill, "update": update, "property": property,
		"get_network_log": getNetworkLog, "http": plainHTTP,
		"run": runCommand, "run_stream": runStream, "spawn": spawn, "attach": attach, "list_sessions": listSessions,
		"kill_session": killSession, "write_stdin": writeStdin, "close_stdin": closeStdin, "kill_process": killProcess,
		"read_output": readOutput, "wait": wait, "detach": detach,
		"files_write": filesWrite, "files_read": filesRead, "files_read_text": filesReadText,
		"files_download_dir": filesDownloadDir, "files_list": filesList, "files_stat": filesStat,
		"files_mkdir": filesMkdir, "files_move": filesMove, "files_remove": filesRemove,
		"files_watch": filesWatch, "watch_next": watchNext, "watch_close": watchClose,
	}
}

func create(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	req := client.CreateSandboxRequest{
		Name: c.text("name"), FromSnapshot: c.text("from_snapshot"), TimeoutSeconds: c.optional("timeout_seconds"),
		TimeoutAction: client.TimeoutAction(c.text("timeout_action")), AutoDeleteSeconds: c.optional("auto_delete_seconds"),
		Metadata: c.texts("metadata"), EnvVars: c.texts("env_vars"), Network: c.network(),
	}
	req.FromTemplate = c.fromTemplate()
	ctx, done := c.abortable()
	defer done()
	if c.wrong != nil {
		return nil, c.wrong
	}
	sb, err := api.CreateSandbox(ctx, req)
	if err != nil {
		return nil, err
	}
	return c.bind(api, sb)
}

// connect wakes a paused sandbox, as the SDKs' connect does.
func connect(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	sb, err := api.ActivateSandbox(c.ctx, c.text("sandbox_id"))
	if err != nil {
		return nil, err
	}
	return c.bind(api, sb)
}

func listBoxes(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	page, _, err := api.ListSandboxes(c.ctx, client.ListSandboxesOptions{
		Metadata: c.texts("metadata"), Status: client.SandboxStatus(c.text("status")), Limit: c.number("limit"),
		Offset: c.number("offset"),
	})
	if err != nil {
		return nil, err
	}
	out := []any{}
	for _, sb := range page {
		out = append(out, info(&sb))
	}
	return out, nil
}

// info is a SandboxInfo as plain data.
func info(sb *client.Sandbox) map[string]any {
	out := map[string]any{
		"id": sb.ID, "name": sb.Name, "status": string(sb.Status), "vcpu_count": sb.VcpuCount, "memory_mib": sb.MemoryMib,
		"created_at": sb.CreatedAt, "metadata": map[string]string(sb.Metadata),
	}
	set := func(name string, given bool, v func() any) {
		if given {
			out[name] = v()
		}
	}
	set("timeout_seconds", sb.TimeoutSeconds != nil, func() any { return *sb.TimeoutSeconds })
	set("timeout_action", sb.TimeoutAction != "", func() any { return string(sb.TimeoutAction) })
	set("auto_delete_seconds", sb.AutoDeleteSeconds != nil, func() any { return *sb.AutoDeleteSeconds })
	set("auto_delete_at", sb.AutoDeleteAt != nil, func() any { return *sb.AutoDeleteAt })
	set("snapshot_id", sb.SnapshotID != "", func() any { return sb.SnapshotID })
	set("source_snapshot_id", sb.SourceSnapshotID != "", func() any { return sb.SourceSnapshotID })
	set("network", sb.Network != nil, func() any {
		n := map[string]any{}
		if sb.Network.AllowOut != nil {
			n["allow_out"] = sb.Network.AllowOut
		}
		if sb.Network.DenyOut != nil {
			n["deny_out"] = sb.Network.DenyOut
		}
		return n
	})
	return out
}

func remove(c *call, api *client.Client, id string) error {
	err := api.DeleteSandbox(c.ctx, id)
	if client.IsNotFound(err) {
		return nil // what an idempotent delete is in Go
	}
	return err
}

func killByID(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	return nil, remove(c, api, c.text("sandbox_id"))
}

func updateByID(c *call) (any, error) {
	api, err := c.client()
	if err != nil {
		return nil, err
	}
	return nil, api.PatchSandbox(c.ctx, c.text("sandbox_id"), c.patch())
}

func (c *call) patch() client.PatchSandboxRequest {
	return client.PatchSandboxRequest{
		Metadata: c.texts("metadata"), Network: c.network(), TimeoutSeconds: c.nullable("timeout_seconds"),
		TimeoutAction: client.TimeoutAction(c.text("timeout_action")), AutoDeleteSeconds: c.nullable("auto_delete_seconds"),
	}
}

func getInfo(c *call) (any, error) {
	sb, err := c.box().api.GetSandbox(c.ctx, c.box().at.ID)
	if err != nil {
		return nil, err
	}
	return info(sb), nil
}

func pause(c *call) (any, error) { return nil, c.box().api.PauseSandbox(c.ctx, c.box().at.ID) }

func resume(c *call) (any, error) {
	b := c.box()
	res, err := b.api.ResumeSandbox(c.ctx, b.at.ID)
	if err != nil {
		return nil, err
	}
	b.data, err = b.api.DataPlaneAt(b.at.DataPlaneURL, b.at.ID, res.AccessToken)
	return nil, err
}

func kill(c *call) (any, error) { return nil, remove(c, c.box().api, c.box().at.ID) }

func update(c *call) (any, error) {
	return nil, c.box().api.PatchSandbox(c.ctx, c.box().at.ID, c.patch())
}

func property(c *call) (any, error) {
	v, ok := c.on.(interface{ Fields() map[string]any })
	if !ok {
		return nil, fmt.Errorf("%T has no properties", c.on)
	}
	return v.Fields()[c.text("name")], nil
}

func getNetworkLog(c *call) (any, error) {
	page, err := c.box().api.NetworkLog(c.ctx, c.box().at.ID, client.NetworkLogOptions{
		Limit: c.number("limit"), Before: c.text("before"), Since: c.text("since"), Verdict: client.NetworkVerdict(c.text("verdict")),
	})
	if err != nil {
		return nil, err
	}
	rows := []any{}
	for _, r := range page.Data {
		row := map[string]any{"kind": string(r.Kind), "id": r.ID, "ts": r.TS, "protocol": r.Protocol, "verdict": string(r.Verdict)}
		for name, value := range map[string]string{"host": r.Host, "dst_ip": r.DstIP, "match_rule": r.MatchRule} {
			if value != "" {
				row[name] = value
			}
		}
		for name, value := range map[string]*int64{"bytes_sent": r.BytesSent, "bytes_recv": r.BytesRecv, "count": r.Count} {
			if value != nil {
				row[name] = *value
			}
		}
		if r.DstPort != 0 {
			row["dst_port"] = r.DstPort
		}
		rows = append(rows, row)
	}
	out := map[string]any{"data": rows, "has_more": page.HasMore}
	if page.NextCursor != "" {
		out["next_cursor"] = page.NextCursor
	}
	return out, nil
}

// plainHTTP sends one request without the SDK.
func plainHTTP(c *call) (any, error) {
	base := c.text("base_url")
	if base == "" {
		base = os.Getenv("SUPERSERVE_BASE_URL")
	}
	var body io.Reader
	if v, ok := c.args["json"]; ok {
		raw, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(c.ctx, c.text("method"), base+c.text("path"), body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.args["key"] != false {
		req.Header.Set("X-Api-Key", os.Getenv("SUPERSERVE_API_KEY"))
	}
	for k, v := range c.texts("headers") {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	return answer(res, raw)
}

func answer(res *http.Response, raw []byte) (any, error) {
	headers := map[string]any{}
	for k := range res.Header {
		headers[strings.ToLower(k)] = res.Header.Get(k)
	}
	out := map[string]any{"status": res.StatusCode, "headers": headers}
	switch {
	case len(raw) == 0:
	case strings.HasPrefix(res.Header.Get("Content-Type"), "application/json"):
		var v any
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, err
		}
		out["body"] = v
	default:
		out["body"] = string(raw)
	}
	return out, nil
}
