package cli

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) sandboxWatchCommand() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use:   "watch ID PATH",
		Short: "Show changes of files in a sandbox as they happen",
		Long: `Print a line for each change of a file or of a directory's entries: create, write, remove or rename
(of the old name; the new one is a create) and the path. overflow means that changes were lost. It
goes on until it is interrupted or the path itself is removed. --json prints one object per line.`,
		Example: `  superserve sandbox watch -r ID /home/user`,
		Args:    operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			dp, err := c.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.watch(cmd.Context(), dp, args[1], recursive)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also everything below")
	return cmd
}

func (a *App) watch(ctx context.Context, dp *client.DataPlane, path string, recursive bool) error {
	w, err := dp.Watch(ctx, path, recursive)
	if err != nil {
		return err
	}
	defer w.Close()
	fmt.Fprintf(a.Err, "watching %s\n", printable(path))
	lines := json.NewEncoder(a.Out)
	lines.SetEscapeHTML(false)
	for e, err := range w.Events() {
		switch {
		case err != nil:
			return err
		case a.json:
			err = lines.Encode(e)
		default:
			_, err = fmt.Fprintf(a.Out, "%-8s %s\n", e.Event, printable(e.Path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
