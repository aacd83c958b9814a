package guestapi

import "strings"

// maxErrorText is how much of what an agent says an error repeats, in bytes. It goes to logs, and of a build to the
// client: a short request must not make a long line of either.
const maxErrorText = 1 << 10

// BoundError is err with a text that ends somewhere: those of net/http quote what they could not read, which an agent
// chooses. nil is nil.
func BoundError(err error) error {
	if err == nil || len(err.Error()) <= maxErrorText {
		return err
	}
	return boundError{err}
}

type boundError struct{ err error }

// Error is the beginning of the text.
func (e boundError) Error() string { return boundText(e.err.Error()) }

func (e boundError) Unwrap() error { return e.err }

func boundText(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	return strings.ToValidUTF8(text[:maxErrorText], "") + "…"
}
