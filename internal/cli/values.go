package cli

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// parseSpan reads a length of time such as 30d, 12h or 90m for the flag of that name, at most 3650d.
func parseSpan(flag, text string) (time.Duration, error) {
	const most = 3650 * 24 * time.Hour
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 12)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 || d > most {
		return 0, usagef("--%s must be a length of time such as 30d, 12h or 90s, at most 3650d; got %q", flag, text)
	}
	return d, nil
}

// wholeSeconds turns a span into the API's seconds.
func wholeSeconds(flag, text string) (int, error) {
	d, err := parseSpan(flag, text)
	if err != nil {
		return 0, err
	}
	if d%time.Second != 0 {
		return 0, usagef("--%s must be whole seconds; got %q", flag, text)
	}
	return int(d / time.Second), nil
}

// keyValues reads K=V arguments of a repeated flag; nil for none.
func keyValues(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			return nil, usagef("--%s must be NAME=VALUE; got %q", flag, kv)
		}
		m[k] = v
	}
	return m, nil
}

// randomName is a name for a sandbox that was given none.
func randomName() string {
	var b [3]byte
	rand.Read(b[:]) // never fails; it ends the program instead
	return "sandbox-" + hex.EncodeToString(b[:])
}

// shownTime is a time in a table; "-" for none.
func shownTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04Z")
}

// mib prints bytes as MiB.
func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
