package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

// exitInterrupted is what a shell shows for a command ended by Ctrl-C.
const exitInterrupted = 130

type execFlags struct {
	env                    []string
	workdir, user, timeout string
	input, terminal        bool
}

func (a *App) sandboxExecCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec ID -- COMMAND [ARG...]",
		Short: "Run a command, show its output as it comes, and exit with its code",
		Long: `Run a command in a sandbox and exit with its exit code: 124 after a timeout, 128+n after signal n.

A single word or string is run by /bin/sh -c, so it may hold pipes and variables; with arguments
the program is run as it is. A paused sandbox is woken. -i sends standard input, -t gives the
command a terminal; use -it for programs that are used by hand, as in sandbox shell.

Ctrl-C interrupts the command. A second one leaves it running and prints how to come back to it
with sandbox attach. With --json the output comes at the end, as one answer, and Ctrl-C only ends
the waiting.`,
		Example: `  superserve sandbox exec ID -- python3 -c 'print(6*7)'
  superserve sandbox exec ID -w /tmp -e N=3 --timeout 5m -- 'seq $N | tac > out; cat out'
  superserve sandbox exec -i ID -- 'tar xz -C /srv' < site.tar.gz
  superserve sandbox exec -it ID -- python3`,
		Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dash := cmd.ArgsLenAtDash(); dash > 1 {
				return usagef("exec takes one sandbox id before --")
			}
			if a.json && (f.input || f.terminal) {
				return usagef("--json gives one answer at the end; it cannot be combined with -i or -t")
			}
			req, err := f.request(args[1:])
			if err != nil {
				return err
			}
			if a.json {
				return a.execOnce(cmd.Context(), args[0], req)
			}
			return a.execLive(cmd.Context(), args[0], req, f)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.env, "env", "e", nil, "environment variable NAME=VALUE of this command; repeatable")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "directory to start in (default is the template's)")
	fl.StringVarP(&f.user, "user", "u", "", "user to run as (default is the template's)")
	fl.StringVar(&f.timeout, "timeout", "", "kill the command after this long, such as 10m (default 30s; none with -i or -t)")
	fl.BoolVarP(&f.input, "interactive", "i", false, "send standard input to the command")
	fl.BoolVarP(&f.terminal, "tty", "t", false, "run the command in a terminal")
	return cmd
}

// defaultTimeout is the limit of a command that nobody is in a dialogue with, in seconds.
const defaultTimeout = 30

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
	} else if !f.input && !f.terminal {
		req.TimeoutSeconds = defaultTimeout
	}
	return req, nil
}

// execOnce runs a command and prints the whole answer.
func (a *App) execOnce(ctx context.Context, id string, req client.ExecRequest) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	res, err := c.Exec(ctx, id, req)
	if err != nil {
		if ctx.Err() != nil {
			fmt.Fprintln(a.Err, "superserve: interrupted; the command goes on in the sandbox until its timeout")
			return exitError{exitInterrupted}
		}
		return err
	}
	if err := a.printJSON(res); err != nil {
		return err
	}
	if res.ExitCode != 0 {
		return exitError{res.ExitCode}
	}
	return nil
}

// execLive runs a command in a session.
func (a *App) execLive(ctx context.Context, id string, req client.ExecRequest, f execFlags) error {
	var tty *terminal
	if f.terminal {
		if f.input {
			var err error
			if tty, err = a.ownTerminal(); err != nil {
				return errors.New("standard input is no terminal; leave out -t")
			}
		}
		size := a.windowSize()
		req.Terminal = &size
		a.addTerm(&req)
	}
	return a.runLive(ctx, id, func(ctx context.Context, dp *client.DataPlane) (*live, error) {
		p, err := dp.Spawn(ctx, req)
		if err != nil {
			return nil, err
		}
		l := a.liveProcess(p)
		l.tty = tty
		switch {
		case f.input:
			l.stdin = p.Stdin
		case !f.terminal: // there, the input's end would be a Ctrl-D
			_ = p.Stdin.Close() // a connection that broke shows in the output
		}
		return l, nil
	})
}

// addTerm tells the command what kind of terminal its output comes to.
func (a *App) addTerm(req *client.ExecRequest) {
	if _, given := req.Env["TERM"]; given {
		return
	}
	name := a.getenv("TERM")
	if name == "" {
		name = "xterm-256color"
	}
	env := maps.Clone(req.Env)
	if env == nil {
		env = map[string]string{}
	}
	env["TERM"] = name
	req.Env = env
}

// liveProcess shows a process on standard output and standard error.
func (a *App) liveProcess(p *client.Process) *live {
	return &live{conn: p.Connection, show: func(ctx context.Context) (int, error) { return p.Copy(ctx, a.Out, a.Err) }}
}
