package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// printJSON prints one indented JSON value.
func (a *App) printJSON(v any) error {
	enc := json.NewEncoder(a.Out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(withMillis(v))
}

// table prints rows under headings, in columns.
func (a *App) table(headings []string, rows [][]string) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	writeRow(w, headings)
	for _, row := range rows {
		writeRow(w, row)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	// Before an empty cell at the end there are only blanks.
	for line := range strings.Lines(b.String()) {
		if _, err := fmt.Fprintln(a.Out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

// pairs prints one line per name and value; an empty value is left out.
func (a *App) pairs(pairs [][2]string) error {
	w := tabwriter.NewWriter(a.Out, 0, 8, 2, ' ', 0)
	for _, p := range pairs {
		if p[1] != "" {
			writeRow(w, []string{p[0], p[1]})
		}
	}
	return w.Flush()
}

func writeRow(w io.Writer, cells []string) {
	safe := make([]string, len(cells))
	for i, c := range cells {
		safe[i] = printable(c)
	}
	fmt.Fprintln(w, strings.Join(safe, "\t"))
}

// printable keeps names and messages from other people from steering the terminal, breaking the table, or being shown in
// another order than they are written.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// ago is a rough age, such as "3m" or "2d".
func ago(t, now time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// isTerminal says whether somebody is looking at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
