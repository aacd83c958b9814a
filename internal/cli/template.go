package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) templateCommand() *cobra.Command {
	parent := &cobra.Command{
		Use: "template", Short: "See what sandboxes can be made from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	parent.AddCommand(&cobra.Command{
		Use: "list [NAME-PREFIX]", Aliases: []string{"ls"}, Short: "List templates", Args: cobra.MaximumNArgs(1),
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
	})
	return parent
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
		size := "-"
		if t.SizeBytes > 0 {
			size = mib(t.SizeBytes)
		}
		shape := fmt.Sprintf("%d vCPU, %d MiB, %d MiB disk", t.Vcpu, t.MemoryMib, t.DiskMib)
		rows = append(rows, []string{t.Name, string(t.Status), shape, size, ago(t.CreatedAt, now), t.ErrorMessage})
	}
	return a.table([]string{"NAME", "STATUS", "SHAPE", "IMAGE", "AGE", "ERROR"}, rows)
}
