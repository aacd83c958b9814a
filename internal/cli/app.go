package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/internal/config"
)

// App is what a run of the program gets from outside, so that tests can give it something else.
type App struct {
	In       io.Reader
	Out, Err io.Writer
	Environ  []string // as os.Environ
	Version  string
	// Host opens what runs sandboxes; nil means the real one, with gVisor.
	Host HostOpener

	json    bool
	started bool // the command line was right and the command has begun
}

// exitError ends the program with a code and no further words.
type exitError struct{ code int }

// Error implements error.
func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// usageError is a wrong command line that only the command itself could notice.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Main runs the program with these arguments (without the program's name) and returns its exit code.
func Main(ctx context.Context, app *App, args []string) int {
	ctx, restore := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(ctx, restore) // a second signal ends the program at once
	root := app.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return exit.code
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		fmt.Fprintln(app.Err, "superserve: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(app.Err, "superserve: %s\n", app.explain(err))
	if _, wrong := errors.AsType[usageError](err); wrong || !app.started {
		fmt.Fprintf(app.Err, "see %s --help\n", cmd.CommandPath())
		return 2
	}
	return 1
}

func (a *App) root() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "superserve",
		Short: "Sandboxes for code you do not trust",
		Long: `Superserve runs isolated Linux sandboxes and serves them over HTTP.

Commands for a server read its address from SUPERSERVE_BASE_URL (` + defaultBaseURL + `) and the
key from SUPERSERVE_API_KEY. SUPERSERVE_CA_FILE names a PEM file with certificate authorities to trust as well as the
system's, such as superserve ca show prints.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       a.Version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuseEmptyFlags(cmd); err != nil {
				return err
			}
			a.started = true
			return nil
		},
	})
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON for scripts")
	root.AddCommand(
		a.serverCommand(), a.sandboxCommand(), a.templateCommand(), a.keyCommand(), a.caCommand(), a.doctorCommand(),
		a.upCommand(), a.downCommand(), a.demoCommand(), a.benchCommand(), a.versionCommand(),
		a.configCommand(), a.docsCommand(root),
	)
	return root
}

func (a *App) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: operands,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.printJSON(map[string]string{"version": a.Version})
			}
			_, err := fmt.Fprintln(a.Out, a.Version)
			return err
		},
	}
}

func (a *App) configCommand() *cobra.Command {
	parent := group(&cobra.Command{
		Use: "config", Short: "About the settings", Hidden: true,
	})
	parent.AddCommand(&cobra.Command{
		Use: "reference", Short: "Print docs/configuration.md", Args: operands,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.Out, config.Reference())
			return err
		},
	})
	return parent
}

// getenv reads a variable of the App's environment; the last one counts, as in a shell.
func (a *App) getenv(name string) string {
	value := ""
	for _, kv := range a.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			value = v
		}
	}
	return value
}

// settings loads the configuration for a command whose flags config.Bind registered.
func (a *App) settings(cmd *cobra.Command) (*config.Config, []string, error) {
	file := a.getenv("SUPERSERVE_CONFIG")
	if f := cmd.Flags().Lookup("config"); f != nil && f.Changed {
		file = f.Value.String()
	}
	return config.Load(config.Sources{File: file, Environ: a.Environ, Flags: cmd.Flags()})
}

// bindSettings gives a command --config and the flags of these settings; all settings when none is named.
func bindSettings(cmd *cobra.Command, keys ...string) {
	cmd.Flags().String("config", "", "TOML file with settings (default "+config.DefaultFile+" if it exists)")
	config.Bind(cmd.Flags(), keys...)
}
