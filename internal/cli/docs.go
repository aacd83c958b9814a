package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docsCommand prints docs/cli.md, made from the commands themselves.
func (a *App) docsCommand(root *cobra.Command) *cobra.Command {
	parent := group(&cobra.Command{
		Use: "docs", Short: "Print generated documentation", Hidden: true,
	})
	parent.AddCommand(&cobra.Command{
		Use: "cli", Short: "Print docs/cli.md", Args: operands,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(a.Out, cliReference(root))
			return err
		},
	})
	return parent
}

func cliReference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(`# Commands

<!-- Generated from internal/cli by "make generate". Do not edit. -->

Results go to standard output, everything else to standard error. ` + "`--json`" + ` on any command prints JSON for scripts.
Exit codes: 0; 1 with one line that says what failed and how to mend it; 2 for a wrong command line; ` +
		"`sandbox exec`, `shell` and `attach`" + ` exit
with the command's own code.

Commands for a server read ` + "`SUPERSERVE_BASE_URL`" + ` (default ` + "`" + defaultBaseURL + "`" + `) and ` + "`SUPERSERVE_API_KEY`" + `.
` + "`SUPERSERVE_CA_FILE`" + ` names a PEM file with certificate authorities that they trust as well as the system's.
The settings of ` + "`server`, `up` and `down`" + ` are described in [configuration.md](configuration.md).
`)
	describe(&b, root)
	return b.String()
}

func describe(b *strings.Builder, cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.HasSubCommands() {
			describe(b, c)
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		text = strings.ReplaceAll(text, "<", `\<`)
		fmt.Fprintf(b, "%s\n\n```\n%s\n```\n", text, c.UseLine())
		if c.Example != "" {
			fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", dedent(c.Example))
		}
		describeFlags(b, c)
	}
}

func describeFlags(b *strings.Builder, c *cobra.Command) {
	if c.Flags().Lookup("log-level") != nil {
		fmt.Fprint(b, "\nFlags: all settings, and `--config` for a TOML file.\n")
	}
	first := true
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || isSetting(c, f.Name) {
			return
		}
		if first {
			b.WriteString("\n| flag | meaning |\n|---|---|\n")
			first = false
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, strings.ReplaceAll(f.Usage, "|", "\\|"))
	})
}

// isSetting says whether a flag of a command that takes all settings is one of them.
func isSetting(c *cobra.Command, name string) bool {
	if c.Flags().Lookup("log-level") == nil {
		return false
	}
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	probe := &cobra.Command{}
	bindSettings(probe)
	all.AddFlagSet(probe.Flags())
	return all.Lookup(name) != nil
}

func dedent(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}
