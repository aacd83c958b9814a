package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) sandboxShellCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "shell ID",
		Short: "Open a shell in a sandbox, in this terminal",
		Long: `Open the login shell of a sandbox's user in this terminal and exit with its exit code. Everything
typed goes to the sandbox, Ctrl-C and Ctrl-Z too; editors and job control work as on any machine.

To leave the shell running, type Enter ~ . (a tilde and a dot at the start of a line); this prints
how to come back to it with sandbox attach. The same holds when the connection breaks.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json {
				return usagef("shell is for people; there is no --json for it")
			}
			tty, err := a.ownTerminal()
			if err != nil {
				return err
			}
			return a.runLive(cmd.Context(), args[0], func(ctx context.Context, dp *client.DataPlane) (*live, error) {
				size := a.windowSize()
				t, err := dp.Terminal(ctx, size.Cols, size.Rows)
				if err != nil {
					return nil, err
				}
				return &live{conn: t.Connection, tty: tty, stdin: nopWriteCloser{t}, show: a.showTerminal(t)}, nil
			})
		},
	}
}

func (a *App) showTerminal(t *client.Terminal) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		if _, err := io.Copy(a.Out, t); err != nil {
			return 0, err
		}
		return t.Wait(ctx)
	}
}

func (a *App) sandboxAttachCommand() *cobra.Command {
	var offset int64
	var input bool
	cmd := &cobra.Command{
		Use:   "attach ID SESSION",
		Short: "Come back to a command that runs in a sandbox, and exit with its code",
		Long: `Show the output of a command that was started by sandbox exec or sandbox shell, from the beginning
or from an offset in bytes, and go on until it ends. sandbox ps lists the sessions. While nobody is
attached the latest 1 MiB of each stream is kept; how much is missing is told at the end.

A command with a terminal takes over this one, as in sandbox shell. With others -i sends standard
input; Ctrl-C interrupts the command, a second one leaves it running.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.json {
				return usagef("attach shows the command's own output; there is no --json for it")
			}
			if offset < 0 {
				return usagef("--offset must not be negative")
			}
			return a.attach(cmd.Context(), args[0], args[1], offset, input)
		},
	}
	cmd.Flags().Int64Var(&offset, "offset", 0, "leave out this many bytes of output from the beginning")
	cmd.Flags().BoolVarP(&input, "interactive", "i", false, "send standard input to the command")
	return cmd
}

func (a *App) attach(ctx context.Context, id, session string, offset int64, input bool) error {
	return a.runLive(ctx, id, func(ctx context.Context, dp *client.DataPlane) (*live, error) {
		p, err := dp.Attach(ctx, session, offset)
		if err != nil {
			return nil, err
		}
		l := a.liveProcess(p)
		if input {
			l.stdin = p.Stdin
		}
		// Without a terminal here, a session that has one only shows its output.
		if tty, err := a.ownTerminal(); err == nil && p.HasTerminal {
			l.tty, l.stdin = tty, p.Stdin
			size := a.windowSize()
			_ = p.Resize(size.Cols, size.Rows) // a connection that broke shows in the output
		}
		return l, nil
	})
}

func (a *App) sandboxPsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ps ID",
		Short: "List the commands of sandbox exec and shell that run or ended in the last 10 minutes",
		Args:  operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			dp, err := c.Connect(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			list, err := dp.Sessions(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(list)
			}
			rows := make([][]string, 0, len(list))
			for _, s := range list {
				rows = append(rows, sessionRow(s, time.Now()))
			}
			return a.table([]string{"SESSION", "PID", "STATUS", "STARTED", "TERMINAL", "COMMAND"}, rows)
		},
	}
}

func sessionRow(s client.Session, now time.Time) []string {
	status, tty := "running", "-"
	if s.ExitCode != nil {
		status = fmt.Sprintf("exit %d", *s.ExitCode)
	}
	if s.Terminal {
		tty = "yes"
	}
	return []string{s.SessionID, fmt.Sprint(s.PID), status, ago(s.StartedAt, now) + " ago", tty, s.Command}
}
