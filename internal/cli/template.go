package cli

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) templateCommand() *cobra.Command {
	parent := group(&cobra.Command{
		Use: "template", Short: "Build, see and delete what sandboxes are made from",
	})
	parent.AddCommand(
		a.templateBuildCommand(), a.templateListCommand(), a.templateGetCommand(), a.templateLogsCommand(),
		a.templateRebuildCommand(), a.templateCancelCommand(), a.templateDeleteCommand(),
	)
	return parent
}

func (a *App) templateListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list [NAME-PREFIX]", Aliases: []string{"ls"}, Short: "List templates", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := c.ListTemplates(cmd.Context(), prefix)
			if err != nil {
				return err
			}
			return a.printTemplates(list)
		},
	}
}

func (a *App) printTemplates(list []client.Template) error {
	if a.json {
		if list == nil {
			list = []client.Template{}
		}
		return a.printJSON(list)
	}
	now := time.Now()
	rows := make([][]string, 0, len(list))
	for _, t := range list {
		rows = append(rows, []string{t.Name, string(t.Status), templateShape(&t), templateSize(&t), ago(t.CreatedAt, now), cmp.Or(t.Progress, t.ErrorMessage)})
	}
	return a.table([]string{"NAME", "STATUS", "SHAPE", "IMAGE", "AGE", "DETAIL"}, rows)
}

func templateShape(t *client.Template) string {
	return fmt.Sprintf("%d vCPU, %d MiB, %d MiB disk", t.Vcpu, t.MemoryMib, t.DiskMib)
}

func templateSize(t *client.Template) string {
	if t.SizeBytes == 0 {
		return "-"
	}
	return mib(t.SizeBytes)
}

// shownBuilds is how many builds template get shows.
const shownBuilds = 5

func (a *App) templateGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a template and its latest builds", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.GetTemplate(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			builds, err := c.ListBuilds(cmd.Context(), t.ID, shownBuilds)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					Template *client.Template `json:"template"`
					Builds   []client.Build   `json:"builds"`
				}{t, builds})
			}
			return a.printTemplate(t, builds)
		},
	}
}

func (a *App) printTemplate(t *client.Template, builds []client.Build) error {
	pairs := [][2]string{
		{"name", t.Name}, {"id", t.ID}, {"status", string(t.Status)}, {"shape", templateShape(t)}, {"image", templateSize(t)},
		{"created", shownTime(&t.CreatedAt)},
	}
	if t.BuiltAt != nil {
		pairs = append(pairs, [2]string{"built", shownTime(t.BuiltAt)})
	}
	pairs = append(pairs, [2]string{"progress", t.Progress}, [2]string{"error", t.ErrorMessage})
	if err := a.pairs(pairs); err != nil || len(builds) == 0 {
		return err
	}
	now := time.Now()
	rows := make([][]string, 0, len(builds))
	for _, b := range builds {
		rows = append(rows, []string{b.ID, string(b.Status), ago(b.CreatedAt, now), buildTime(&b), cmp.Or(b.ErrorMessage, b.SourceDigest)})
	}
	fmt.Fprintln(a.Out)
	return a.table([]string{"BUILD", "STATUS", "AGE", "TOOK", "DETAIL"}, rows)
}

// buildTime is how long a build has taken, "-" while it goes on.
func buildTime(b *client.Build) string {
	if b.StartedAt == nil || b.FinalizedAt == nil {
		return "-"
	}
	return b.FinalizedAt.Sub(*b.StartedAt).Round(100 * time.Millisecond).String()
}

func (a *App) templateDeleteCommand() *cobra.Command {
	cmd := a.each("NAME", "delete", "Delete templates that nothing needs; their names are free at once", "deleted",
		func(ctx context.Context, c *client.Client, name string) error { return c.DeleteTemplate(ctx, name) })
	cmd.Aliases = []string{"rm"}
	return cmd
}

func (a *App) templateCancelCommand() *cobra.Command {
	return a.each("NAME", "cancel", "End the latest build of templates; what was built before stays in service", "cancelled",
		func(ctx context.Context, c *client.Client, name string) error {
			build, err := latestBuild(ctx, c, name)
			if err != nil {
				return err
			}
			return c.CancelBuild(ctx, name, build)
		})
}

// latestBuild finds the build that was asked for last.
func latestBuild(ctx context.Context, c *client.Client, name string) (id string, err error) {
	t, err := c.GetTemplate(ctx, name)
	if err != nil {
		return "", err
	}
	if t.LatestBuildID == "" {
		return "", fmt.Errorf("%s has no builds: it is a system template, which the server makes by itself", t.Name)
	}
	return t.LatestBuildID, nil
}
