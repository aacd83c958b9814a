package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) templateLogsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NAME [BUILD]", Short: "Show the log of a template's latest build, or of another one", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.templateLogs(cmd.Context(), c, args, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build is over")
	return cmd
}

func (a *App) templateLogs(ctx context.Context, c *client.Client, args []string, follow bool) error {
	var build string
	var err error
	if len(args) == 2 {
		build = args[1]
	} else if build, err = latestBuild(ctx, c, args[0]); err != nil {
		return err
	}
	printer := func(e *client.BuildLogEvent) error { return printLogLine(a.Out, e) }
	if a.json {
		lines := json.NewEncoder(a.Out)
		printer = func(e *client.BuildLogEvent) error { return lines.Encode(withMillis(e)) }
	}
	if follow {
		return c.FollowBuild(ctx, args[0], build, printer)
	}
	over, err := c.BuildLog(ctx, args[0], build, printer)
	if err == nil && !over && !a.json {
		fmt.Fprintf(a.Err, "the build goes on: superserve template logs %s --follow waits for its end\n", printable(args[0]))
	}
	return err
}

// watchBuild shows a build's log on standard error until the build is over, and gives what has become of it.
func (a *App) watchBuild(ctx context.Context, c *client.Client, build *client.Build) (*client.Build, error) {
	err := c.FollowBuild(ctx, build.TemplateID, build.ID, func(e *client.BuildLogEvent) error {
		if a.json {
			return nil
		}
		return printLogLine(a.Err, e)
	})
	if err != nil {
		return nil, err
	}
	return c.GetBuild(ctx, build.TemplateID, build.ID)
}

// printLogLine prints a line, the builder's own with a mark.
func printLogLine(w io.Writer, e *client.BuildLogEvent) error {
	text := strings.ReplaceAll(e.Text, "\t", "    ")
	if e.Stream == client.LogSystem {
		if text == "" {
			return nil
		}
		text = "==> " + text
	}
	_, err := fmt.Fprintln(w, printable(text))
	return err
}
