package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

// exitInterrupted is what a shell shows for a command ended by Ctrl-C.
const exitInterrupted = 130

type execFlags struct {
	env                    []string
	workdir, user, timeout string
}

func (a *App) sandboxExecCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec ID -- COMMAND [ARG...]",
		Short: "Run a command, show its output as it comes, and exit with its code",
		Long: `Run a command in a sandbox and exit with its exit code: 124 after a timeout, 128+n after signal n.

A single word or string is run by /bin/sh -c, so it may hold pipes and variables; with arguments
the program is run as it is. A paused sandbox is woken. When this command is interrupted, the one
in the sandbox goes on until its timeout.`,
		Example: `  superserve sandbox exec ID -- python3 -c 'print(6*7)'
  superserve sandbox exec ID -w /tmp -e N=3 --timeout 5m -- 'seq $N | tac > out; cat out'`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 1 {
				return usagef("exec takes one sandbox id before --")
			}
			req, err := f.request(args[1:])
			if err != nil {
				return err
			}
			return a.exec(cmd.Context(), args[0], req)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "environment variable NAME=VALUE of this command; repeatable")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "directory to start in (default is the template's)")
	fl.StringVarP(&f.user, "user", "u", "", "user to run as (default is the template's)")
	fl.StringVar(&f.timeout, "timeout", "", "kill the command after this long, such as 10m (default 30s)")
	return cmd
}

func (f *execFlags) request(command []string) (client.ExecRequest, error) {
	req := client.ExecRequest{Command: command[0], WorkingDir: f.workdir, User: f.user}
	if len(command) > 1 {
		req.Args = command[1:]
	}
	var err error
	if req.Env, err = keyValues("env", f.env); err != nil {
		return req, err
	}
	if f.timeout != "" {
		span, err := parseSpan("timeout", f.timeout)
		if err != nil {
			return req, err
		}
		if span == 0 {
			return req, usagef("--timeout must be more than 0s")
		}
		req.TimeoutSeconds = span.Seconds()
	}
	return req, nil
}

func (a *App) exec(ctx context.Context, id string, req client.ExecRequest) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	var code int
	if a.json {
		code, err = a.execOnce(ctx, c, id, req)
	} else {
		code, err = a.execStream(ctx, c, id, req)
	}
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(a.Err, "superserve: interrupted; the command goes on in the sandbox until its timeout")
			return exitError{exitInterrupted}
		}
		return err
	}
	if code != 0 {
		return exitError{code}
	}
	return nil
}

func (a *App) execOnce(ctx context.Context, c *client.Client, id string, req client.ExecRequest) (int, error) {
	res, err := c.Exec(ctx, id, req)
	if err != nil {
		return 0, err
	}
	return res.ExitCode, a.printJSON(res)
}

func (a *App) execStream(ctx context.Context, c *client.Client, id string, req client.ExecRequest) (int, error) {
	stream, err := c.ExecStream(ctx, id, req)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	return stream.Copy(a.Out, a.Err)
}
