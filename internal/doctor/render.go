package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"unicode/utf8"
)

// Table writes the checks for people: one line each with ✓, ✗ (essential) or ! (advice), and below a bad one how to
// mend it.
func Table(w io.Writer, checks []Check) error {
	width := 0
	for _, c := range checks {
		width = max(width, utf8.RuneCountInString(c.Name))
	}
	bad, advice := 0, 0
	for _, c := range checks {
		mark := "✓"
		if !c.OK && c.Essential {
			mark = "✗"
			bad++
		} else if !c.OK {
			mark = "!"
			advice++
		}
		if _, err := fmt.Fprintf(w, "%s %-*s  %s\n", mark, width, c.Name, c.Found); err != nil {
			return err
		}
		if c.OK {
			continue
		}
		if _, err := fmt.Fprintf(w, "  %-*s  → %s\n", width, "", c.Mend); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", summary(bad, advice))
	return err
}

func summary(bad, advice int) string {
	switch {
	case bad == 1:
		return "✗ 1 thing must be mended before sandboxes can run."
	case bad > 1:
		return fmt.Sprintf("✗ %d things must be mended before sandboxes can run.", bad)
	case advice > 0:
		return "✓ Sandboxes can run; see the lines marked ! for what could be better."
	}
	return "✓ Sandboxes can run."
}

// JSON writes the checks for scripts: {"ok": whether all essential ones are good, "checks": […]}.
func JSON(w io.Writer, checks []Check) error {
	if checks == nil {
		checks = []Check{}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		OK     bool    `json:"ok"`
		Checks []Check `json:"checks"`
	}{Err(checks) == nil, checks})
}
