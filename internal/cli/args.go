package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// group is a command that only holds others: alone it shows its help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		cmd.SuggestionsMinimumDistance = min(2, max(1, len(args[0])-3)) // everything is near to a short word
		near := ""
		if found := cmd.SuggestionsFor(args[0]); len(found) > 0 {
			near = "; did you mean " + strings.Join(found, " or ") + "?"
		}
		return usagef("%s has no command %q%s", cmd.CommandPath(), args[0], near)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// operands checks the arguments against the usage line of a command: NAME is needed, [NAME] is not, and ... stands
// for more of the same. An empty one is a variable of the shell that was not set, so it is refused, except for the
// arguments of a program.
func operands(cmd *cobra.Command, args []string) error {
	var names []string
	needed := 0
	for _, word := range strings.Fields(cmd.Use)[1:] {
		if word == "--" {
			continue
		}
		names = append(names, word)
		if !strings.HasPrefix(word, "[") {
			needed = len(names)
		}
	}
	if len(args) < needed {
		return usagef("%s is missing: %s", strings.TrimSuffix(names[len(args)], "..."), useLine(cmd))
	}
	for i, arg := range args {
		if i >= len(names) && (len(names) == 0 || !strings.Contains(names[len(names)-1], "...")) {
			return usagef("%q is too much: %s", arg, useLine(cmd))
		}
		name := names[min(i, len(names)-1)]
		if arg == "" && name != "[ARG...]" {
			return usagef("%s is empty: %s", strings.Trim(name, "[]."), useLine(cmd))
		}
	}
	return nil
}

// useLine is how a command is written, without its flags.
func useLine(cmd *cobra.Command) string {
	return strings.TrimSpace(cmd.Parent().CommandPath() + " " + cmd.Use)
}

// flagError says what is wrong with a flag in the words of this program.
func flagError(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		want := ""
		switch e.GetFlag().Value.Type() {
		case "int", "int64":
			want = "a whole number"
		case "bool":
			want = "true or false"
		}
		if want != "" {
			return usagef("--%s must be %s; got %q", e.GetFlag().Name, want, e.GetValue())
		}
	}
	if _, ok := errors.AsType[*pflag.NotExistError](err); ok && strings.Contains(cmd.Use, " -- ") {
		return usageError{fmt.Errorf("%w; flags of the command to run go after --", err)}
	}
	return usageError{err}
}

// mayBeEmpty are the flags of commands for a server that mean something when they are empty.
func mayBeEmpty(name string) bool { return name == "start-cmd" || name == "ready-cmd" }

// refuseEmptyFlags refuses --flag "$UNSET", which would otherwise do the same as no flag: without a time limit, say, or
// from the base template instead of a snapshot. The server's settings check their values themselves.
func refuseEmptyFlags(cmd *cobra.Command) (err error) {
	if cmd.Flags().Lookup("config") != nil {
		return nil
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if err == nil && f.Value.Type() == "string" && f.Value.String() == "" && !mayBeEmpty(f.Name) {
			err = usagef("--%s is empty; give it a value or leave it out", f.Name)
		}
	})
	return err
}
