package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) sandboxCommand() *cobra.Command {
	parent := group(&cobra.Command{
		Use: "sandbox", Aliases: []string{"sb"}, Short: "Create, use, pause, resume and delete sandboxes",
	})
	parent.AddCommand(
		a.sandboxCreateCommand(), a.sandboxListCommand(), a.sandboxGetCommand(), a.sandboxExecCommand(),
		a.sandboxShellCommand(), a.sandboxPsCommand(), a.sandboxAttachCommand(), a.sandboxCpCommand(),
		a.sandboxWatchCommand(), a.sandboxNetworkCommand(), a.sandboxPauseCommand(), a.sandboxResumeCommand(), a.sandboxKillCommand(),
	)
	return parent
}

// createFlags are the flags of sandbox create, as text.
type createFlags struct {
	name, template, snapshot, timeout, timeoutAction, autoDelete string
	env, metadata, allowOut, denyOut                             []string
}

func (a *App) sandboxCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a sandbox; its id goes to standard output",
		Example: `  superserve sandbox create --name build --timeout 1h --timeout-action pause
  id=$(superserve sandbox create -e TOKEN=abc --deny-out 0.0.0.0/0)`,
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request(cmd)
			if err != nil {
				return err
			}
			return a.createSandbox(cmd.Context(), req)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name, 1-64 characters (default sandbox- and random characters)")
	fl.StringVar(&f.template, "template", "", "template's name or id (default superserve/base)")
	fl.StringVar(&f.snapshot, "snapshot", "", "id of a snapshot to start from instead of a template")
	fl.StringVar(&f.timeout, "timeout", "", "after how long the timeout action is taken, such as 1h or 7d")
	fl.StringVar(&f.timeoutAction, "timeout-action", "", "what happens then: pause (the default) or delete")
	fl.StringVar(&f.autoDelete, "auto-delete", "", "delete after being paused this long; 0s deletes at pause")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "environment variable NAME=VALUE of every command; repeatable")
	fl.StringArrayVar(&f.metadata, "metadata", nil, "tag KEY=VALUE; repeatable")
	fl.StringArrayVar(&f.allowOut, "allow-out", nil, "address, CIDR or domain that may be reached; repeatable")
	fl.StringArrayVar(&f.denyOut, "deny-out", nil, "CIDR that may not be reached, 0.0.0.0/0 for all; repeatable")
	return cmd
}

// request checks what only the command line can get wrong; the server checks the rest.
func (f *createFlags) request(cmd *cobra.Command) (client.CreateSandboxRequest, error) {
	var errs [4]error
	req := client.CreateSandboxRequest{
		Name: f.name, FromTemplate: f.template, FromSnapshot: f.snapshot,
		TimeoutAction: client.TimeoutAction(f.timeoutAction),
	}
	if req.Name == "" && !cmd.Flags().Changed("name") {
		req.Name = randomName()
	}
	req.EnvVars, errs[0] = keyValues("env", f.env)
	req.Metadata, errs[1] = keyValues("metadata", f.metadata)
	if f.timeout != "" {
		req.TimeoutSeconds, errs[2] = optionalSeconds("timeout", f.timeout)
	}
	if f.autoDelete != "" {
		req.AutoDeleteSeconds, errs[3] = optionalSeconds("auto-delete", f.autoDelete)
	}
	if len(f.allowOut)+len(f.denyOut) > 0 {
		req.Network = &client.Network{AllowOut: f.allowOut, DenyOut: f.denyOut}
	}
	for _, err := range errs {
		if err != nil {
			return req, err
		}
	}
	return req, nil
}

func optionalSeconds(flag, text string) (*int, error) {
	n, err := wholeSeconds(flag, text)
	return &n, err
}

func (a *App) createSandbox(ctx context.Context, req client.CreateSandboxRequest) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	sb, err := c.CreateSandbox(ctx, req)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(sb)
	}
	fmt.Fprintf(a.Err, "created %s\nnext:\n  superserve sandbox exec %s -- python3 --version\n"+
		"  superserve sandbox pause %s\n  superserve sandbox kill %s\n", printable(sb.Name), sb.ID, sb.ID, sb.ID)
	_, err = fmt.Fprintln(a.Out, sb.ID)
	return err
}

func (a *App) sandboxListCommand() *cobra.Command {
	var opts client.ListSandboxesOptions
	var status string
	var metadata []string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List sandboxes, newest first", Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.Metadata, err = keyValues("metadata", metadata); err != nil {
				return err
			}
			opts.Status = client.SandboxStatus(status)
			if cmd.Flags().Changed("limit") && opts.Limit < 1 {
				return usagef("--limit must be 1-200; got %d", opts.Limit)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, total, err := c.ListSandboxes(cmd.Context(), opts)
			if err != nil {
				return err
			}
			return a.printSandboxes(list, opts.Offset, total)
		},
	}
	cmd.Flags().StringVar(&status, "status", "", "only active, paused, resuming or failed ones")
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "only those with the tag KEY=VALUE; repeatable")
	cmd.Flags().IntVar(&opts.Limit, "limit", 0, "at most this many, 1-200 (default 100)")
	cmd.Flags().IntVar(&opts.Offset, "offset", 0, "leave out this many")
	return cmd
}

func (a *App) printSandboxes(list []client.Sandbox, offset, total int) error {
	if a.json {
		if list == nil {
			list = []client.Sandbox{}
		}
		return a.printJSON(list)
	}
	now := time.Now()
	rows := make([][]string, 0, len(list))
	for _, sb := range list {
		shape := fmt.Sprintf("%d vCPU, %d MiB", sb.VcpuCount, sb.MemoryMib)
		rows = append(rows, []string{sb.ID, sb.Name, string(sb.Status), shape, ago(sb.CreatedAt, now), shownTime(sb.ExpiresAt)})
	}
	if err := a.table([]string{"ID", "NAME", "STATUS", "SHAPE", "AGE", "EXPIRES"}, rows); err != nil {
		return err
	}
	if end := offset + len(list); end < total {
		fmt.Fprintf(a.Err, "%d of %d; --offset %d shows more\n", len(list), total, end)
	}
	return nil
}

func (a *App) sandboxGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show one sandbox", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			sb, err := c.GetSandbox(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(sb)
			}
			return a.pairs(sandboxPairs(sb))
		},
	}
}

func sandboxPairs(sb *client.Sandbox) [][2]string {
	pairs := [][2]string{
		{"id", sb.ID}, {"name", sb.Name}, {"status", string(sb.Status)}, {"failure", sb.FailureReason},
		{"vcpu", fmt.Sprint(sb.VcpuCount)}, {"memory", fmt.Sprintf("%d MiB", sb.MemoryMib)},
		{"disk", fmt.Sprintf("%d MiB", sb.DiskMib)}, {"template", sb.TemplateID}, {"snapshot", sb.SnapshotID},
		{"source snapshot", sb.SourceSnapshotID}, {"created", shownTime(&sb.CreatedAt)},
	}
	if sb.TimeoutSeconds != nil {
		span := time.Duration(*sb.TimeoutSeconds) * time.Second
		pairs = append(pairs, [2]string{"timeout", fmt.Sprintf("%s after %s", sb.TimeoutAction, span)})
	}
	if sb.ExpiresAt != nil {
		pairs = append(pairs, [2]string{"expires", shownTime(sb.ExpiresAt)})
	}
	if sb.AutoDeleteSeconds != nil {
		span := time.Duration(*sb.AutoDeleteSeconds) * time.Second
		pairs = append(pairs, [2]string{"auto-delete", fmt.Sprintf("after %s of pause", span)})
	}
	if sb.AutoDeleteAt != nil {
		pairs = append(pairs, [2]string{"deleted at", shownTime(sb.AutoDeleteAt)})
	}
	if sb.Network != nil {
		pairs = append(pairs, [2]string{"allow out", strings.Join(sb.Network.AllowOut, ", ")},
			[2]string{"deny out", strings.Join(sb.Network.DenyOut, ", ")})
	}
	for _, k := range sortedKeys(sb.Metadata) {
		pairs = append(pairs, [2]string{"metadata " + k, sb.Metadata[k]})
	}
	return append(pairs, [2]string{"data plane", sb.DataPlaneURL})
}

func (a *App) sandboxPauseCommand() *cobra.Command {
	return a.each("ID", "pause", "Stop sandboxes and keep their memory and disk", "paused",
		func(ctx context.Context, c *client.Client, id string) error { return c.PauseSandbox(ctx, id) })
}

func (a *App) sandboxResumeCommand() *cobra.Command {
	return a.each("ID", "resume", "Bring paused sandboxes back with their processes; access tokens change", "resumed",
		func(ctx context.Context, c *client.Client, id string) error {
			_, err := c.ResumeSandbox(ctx, id)
			return err
		})
}

func (a *App) sandboxKillCommand() *cobra.Command {
	cmd := a.each("ID", "kill", "Delete sandboxes and their data for good", "deleted",
		func(ctx context.Context, c *client.Client, id string) error { return c.DeleteSandbox(ctx, id) })
	cmd.Aliases = []string{"delete", "rm"}
	return cmd
}

// each is a command that does one thing to each thing it is given. It tells an error and goes on, so that one wrong id
// does not keep the others from being done.
func (a *App) each(what, name, short, done string, do func(context.Context, *client.Client, string) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " " + what + "...", Short: short, Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			type result struct {
				ID    string `json:"id"`
				OK    bool   `json:"ok"`
				Error string `json:"error,omitempty"`
			}
			var results []result
			failed := false
			for _, id := range args {
				if err := do(cmd.Context(), c, id); err != nil {
					if cmd.Context().Err() != nil {
						return err
					}
					failed = true
					results = append(results, result{ID: id, Error: a.explain(err)})
					fmt.Fprintf(a.Err, "superserve: %s\n", a.explain(err))
					continue
				}
				results = append(results, result{ID: id, OK: true})
				if a.json {
					continue
				}
				if _, err := fmt.Fprintln(a.Out, done, id); err != nil {
					return err
				}
			}
			if a.json {
				if err := a.printJSON(results); err != nil {
					return err
				}
			}
			if failed {
				return exitError{1}
			}
			return nil
		},
	}
}
