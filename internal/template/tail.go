package template

import "strings"

// maxTail is how much of a command's output an error message shows, in bytes.
const maxTail = 300

// Tail keeps the end of a command's output for an error message.
type Tail struct{ text string }

// Add takes output as it comes.
func (t *Tail) Add(text string) {
	t.text += text
	if over := len(t.text) - maxTail; over > 0 {
		t.text = strings.ToValidUTF8(t.text[over:], "")
	}
}

// String is ": " and the last lines as one, "" when there was no output.
func (t *Tail) String() string {
	if text := strings.Join(strings.Fields(t.text), " "); text != "" {
		return ": " + text
	}
	return ""
}
