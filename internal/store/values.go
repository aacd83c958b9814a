package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// micros is how a time is stored. What is finer than a microsecond is cut off.
func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

func nullMicros(t *time.Time) *int64 {
	if t == nil {
		return nil
	}
	us := micros(*t)
	return &us
}

func fromNullMicros(us *int64) *time.Time {
	if us == nil {
		return nil
	}
	t := fromMicros(*us)
	return &t
}

// nullText stores "" as NULL, for references.
func nullText(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func fromNullText(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// freeText makes words for people storable: PostgreSQL refuses NUL and bytes that are not UTF-8, and a failure reason
// may quote a hostile sandbox. Recording the failure matters more than the odd byte.
func freeText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// storable says whether a TEXT column can hold s at all; what it can't hold, no row has.
func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// mapJSON stores nil as {}. JSON escapes NUL, so any string fits.
func mapJSON(m map[string]string) (string, error) {
	if m == nil {
		return "{}", nil
	}
	b, err := json.Marshal(m)
	return string(b), err
}

// mapFromJSON never gives nil. column names it in an error, which must not quote the value: it may hold secrets.
func mapFromJSON(column, text string) (map[string]string, error) {
	m := map[string]string{}
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("column %s holds no JSON object of strings", column)
	}
	return m, nil
}
