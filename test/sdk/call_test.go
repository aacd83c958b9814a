package sdk

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/superserve/superserve/client"
)

// errNoKey stands for the client's error about a missing API key, which has no type of its own.
var errNoKey = errors.New("there is no API key")

// call is one call of the SDK. The functions that read arguments note what is wrong with them.
type call struct {
	*run
	on    any
	args  map[string]any
	wrong error
}

func arg[T any](c *call, name string) (v T) {
	raw, ok := c.args[name]
	if !ok || raw == nil {
		return v
	}
	v, ok = raw.(T)
	if !ok {
		c.wrong = fmt.Errorf("%s is a %T", name, raw)
	}
	return v
}

func (c *call) text(name string) string { return arg[string](c, name) }

func (c *call) number(name string) int { return int(arg[float64](c, name)) }

// optional is nil when the argument is absent.
func (c *call) optional(name string) *int {
	if c.args[name] == nil {
		return nil
	}
	n := c.number(name)
	return &n
}

// nullable tells an absent argument from null.
func (c *call) nullable(name string) client.Nullable[int] {
	v, ok := c.args[name]
	switch {
	case !ok:
		return client.Nullable[int]{}
	case v == nil:
		return client.Null[int]()
	}
	return client.Value(c.number(name))
}

func (c *call) bytes(name string) []byte {
	switch v := c.args[name].(type) {
	case string:
		return []byte(v)
	case []byte:
		return v
	}
	c.wrong = fmt.Errorf("%s is a %T", name, c.args[name])
	return nil
}

func (c *call) texts(name string) map[string]string {
	raw := arg[map[string]any](c, name)
	if raw == nil {
		return nil
	}
	out := map[string]string{}
	for k, v := range raw {
		s, ok := v.(string)
		if !ok {
			c.wrong = fmt.Errorf("%s.%s is a %T; the Go client's types have only strings here", name, k, v)
		}
		out[k] = s
	}
	return out
}

func list(v any) []string {
	raw, ok := v.([]any)
	if !ok {
		return nil
	}
	out := []string{}
	for _, e := range raw {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

func (c *call) network() *client.Network {
	raw, ok := c.args["network"].(map[string]any)
	if !ok {
		return nil
	}
	return &client.Network{AllowOut: list(raw["allow_out"]), DenyOut: list(raw["deny_out"])}
}

func (c *call) command() client.ExecRequest {
	return client.ExecRequest{
		Command: c.text("command"), Args: list(c.args["args"]), Env: c.texts("env"), WorkingDir: c.text("cwd"),
		User: c.text("user"), TimeoutSeconds: arg[float64](c, "timeout_seconds"),
	}
}

// abortable is the scenario's context, which ends after the abort_after_seconds of the call.
func (c *call) abortable() (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(c.ctx)
	if c.args["abort_after_seconds"] == nil {
		return ctx, cancel
	}
	s := arg[float64](c, "abort_after_seconds")
	if s == 0 {
		cancel()
	}
	timer := time.AfterFunc(time.Duration(s*float64(time.Second)), cancel)
	return ctx, func() { timer.Stop(); cancel() }
}

// client makes a client from the environment and what the call overrides.
func (c *call) client() (*client.Client, error) {
	if c.args["api_key"] == nil && c.args["base_url"] == nil {
		cl, err := client.FromEnv()
		if err != nil {
			err = fmt.Errorf("%w: %w", errNoKey, err)
		}
		return cl, err
	}
	base, key := c.text("base_url"), c.text("api_key")
	env := environment()
	if base == "" {
		base = env["SUPERSERVE_BASE_URL"]
	}
	if key == "" {
		key = env["SUPERSERVE_API_KEY"]
	}
	return client.New(base, key)
}

// box is a bound sandbox: the client keeps what the SDKs' Sandbox objects do.
type box struct {
	api  *client.Client
	at   client.Sandbox // as it was when the object was made
	data *client.DataPlane
}

// Fields are the object's properties.
func (b *box) Fields() map[string]any {
	return map[string]any{
		"id": b.at.ID, "name": b.at.Name, "status": string(b.at.Status), "metadata": map[string]string(b.at.Metadata),
	}
}

func (c *call) bind(api *client.Client, sb *client.Sandbox) (any, error) {
	data, err := api.DataPlane(sb)
	if err != nil {
		return nil, err
	}
	c.boxes = append(c.boxes, sb.ID)
	return &box{api: api, at: *sb, data: data}, nil
}

func (c *call) box() *box {
	return c.on.(*box) // the list's check has made sure
}
