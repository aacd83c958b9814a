package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrNotFound answers for an image that is not in the store.
var ErrNotFound = errors.New("image not found")

// ErrInUse answers when an image can't be unmounted because something still uses it.
var ErrInUse = errors.New("image in use")

// BuildError is a failed build. Error holds everything and is for the operator's log; Public is safe for API clients.
type BuildError struct {
	// Step is the step that failed, as in Progress.
	Step string
	// Output is the last lines the failing tool wrote, oldest first; at most maxTail.
	Output []string
	// Hint says what the operator can do, when that is known.
	Hint string
	Err  error
}

// Error names the step, the cause and the tool's last lines.
func (e *BuildError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v", e.Step, e.Err)
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	if len(e.Output) > 0 {
		b.WriteString("; its last lines:\n  ")
		b.WriteString(strings.Join(e.Output, "\n  "))
	}
	return b.String()
}

// Unwrap gives the cause to errors.Is.
func (e *BuildError) Unwrap() error { return e.Err }

// Public says which step failed and, from the tool's own error lines, why, with file paths of the host left out.
func (e *BuildError) Public() string {
	text := e.Step + " failed"
	if why := errorLines(e.Output); why != "" {
		text += ": " + why
	}
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// errorLines picks what tells the reason: apt's and mmdebstrap's "E:" lines, without those that only repeat the
// command that failed; without any, the last line.
func errorLines(output []string) string {
	var why []string
	for _, line := range output {
		if !strings.HasPrefix(line, "E: ") || strings.Contains(line, "Status-Fd") || strings.Contains(line, "mmdebstrap failed") {
			continue
		}
		if why = append(why, redact(strings.TrimPrefix(line, "E: "))); len(why) == 2 {
			break
		}
	}
	if len(why) == 0 && len(output) > 0 {
		why = []string{redact(output[len(output)-1])}
	}
	return strings.Join(why, "; ")
}

// redact takes absolute paths out of a line; URLs stay, because they tell which server could not be reached.
func redact(line string) string {
	words := strings.Fields(line)
	paths := regexp.MustCompile(`(^|[^A-Za-z0-9/:])/[^\s'",;:()]*`)
	for i, w := range words {
		if !strings.Contains(w, "://") {
			words[i] = paths.ReplaceAllString(w, "${1}…")
		}
	}
	return strings.Join(words, " ")
}
