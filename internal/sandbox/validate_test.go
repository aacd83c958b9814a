package sandbox

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// check wants err to be bad_request naming field, or nil when field is "".
func check(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Fatalf("want no error, got %v", err)
		}
		return
	}
	if CodeOf(err) != CodeBadRequest || !strings.Contains(err.Error(), field) {
		t.Fatalf("want bad_request naming %s, got %v", field, err)
	}
}

func TestValidateName(t *testing.T) {
	for name, c := range map[string]struct{ in, want, field string }{
		"one character":       {"a", "a", ""},
		"64 characters":       {strings.Repeat("é", 64), strings.Repeat("é", 64), ""},
		"65 characters":       {strings.Repeat("é", 65), "", "name"},
		"64 after trimming":   {"  " + strings.Repeat("a", 64) + "\t\n", strings.Repeat("a", 64), ""},
		"empty":               {"", "", "name"},
		"only spaces":         {" \t ", "", "name"},
		"control character":   {"a\x07b", "", "name"},
		"newline inside":      {"a\nb", "", "name"},
		"C1 control":          {"a\u0085b", "", "name"},
		"not UTF-8":           {"a\xff", "", "name"},
		"spaces inside stay":  {"my box", "my box", ""},
		"other script, emoji": {"箱 📦", "箱 📦", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ValidateName(c.in)
			check(t, err, c.field)
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestValidateNumbers(t *testing.T) {
	for _, c := range []struct {
		validate func(int) error
		value    int
		field    string
	}{
		{ValidateTimeoutSeconds, 0, "timeout_seconds"},
		{ValidateTimeoutSeconds, 1, ""},
		{ValidateTimeoutSeconds, 604800, ""},
		{ValidateTimeoutSeconds, 604801, "timeout_seconds"},
		{ValidateTimeoutSeconds, -1, "timeout_seconds"},
		{ValidateAutoDeleteSeconds, -1, "auto_delete_seconds"},
		{ValidateAutoDeleteSeconds, 0, ""},
		{ValidateAutoDeleteSeconds, 2592000, ""},
		{ValidateAutoDeleteSeconds, 2592001, "auto_delete_seconds"},
	} {
		t.Run(fmt.Sprint(c.value), func(t *testing.T) { check(t, c.validate(c.value), c.field) })
	}
}

func TestValidateTimeoutAction(t *testing.T) {
	for action, field := range map[TimeoutAction]string{
		"delete": "", "pause": "", "": "timeout_action", "Delete": "timeout_action", "stop": "timeout_action",
	} {
		t.Run(string(action), func(t *testing.T) { check(t, ValidateTimeoutAction(action), field) })
	}
}

func TestValidateIdempotencyKey(t *testing.T) {
	for name, c := range map[string]struct{ key, field string }{
		"one":       {"k", ""},
		"255":       {strings.Repeat("k", 255), ""},
		"256":       {strings.Repeat("k", 256), "Idempotency-Key"},
		"empty":     {"", "Idempotency-Key"},
		"control":   {"a\x01", "Idempotency-Key"},
		"not UTF-8": {"\xff", "Idempotency-Key"},
	} {
		t.Run(name, func(t *testing.T) { check(t, ValidateIdempotencyKey(c.key), c.field) })
	}
}

// metadataOf makes n entries.
func metadataOf(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("k%03d", i)] = "v"
	}
	return m
}

// metadataOfSize makes valid metadata that is exactly size bytes as JSON.
func metadataOfSize(size int) map[string]string {
	m := map[string]string{}
	for i := 0; jsonSize(m) < size; i++ {
		key := fmt.Sprintf("key-%02d", i)
		m[key] = ""
		m[key] = strings.Repeat("x", min(2000, size-jsonSize(m)))
	}
	return m
}

func TestValidateMetadata(t *testing.T) {
	for name, c := range map[string]struct {
		in    map[string]string
		field string
	}{
		"nil":                    {nil, ""},
		"64 keys":                {metadataOf(64), ""},
		"65 keys":                {metadataOf(65), "64 keys"},
		"key of 256 bytes":       {map[string]string{strings.Repeat("k", 256): ""}, ""},
		"key of 257 bytes":       {map[string]string{strings.Repeat("k", 257): ""}, "256 bytes"},
		"key bytes, not runes":   {map[string]string{strings.Repeat("é", 129): ""}, "256 bytes"},
		"value of 2048 bytes":    {map[string]string{"k": strings.Repeat("v", 2048)}, ""},
		"value of 2049 bytes":    {map[string]string{"k": strings.Repeat("v", 2049)}, `"k"`},
		"16384 bytes in all":     {metadataOfSize(16384), ""},
		"16385 bytes in all":     {metadataOfSize(16385), "16384 bytes"},
		"reserved":               {map[string]string{"superserve.x": ""}, `"superserve.x"`},
		"reserved in any case":   {map[string]string{"SuperServe.x": ""}, "reserved"},
		"reserved underscore":    {map[string]string{"_SUPERSERVEthing": ""}, "reserved"},
		"superserve without dot": {map[string]string{"superserve": "", "superservex": ""}, ""},
		"NUL in value":           {map[string]string{"k": "a\x00b"}, "NUL"},
		"NUL in key":             {map[string]string{"k\x00": ""}, "NUL"},
	} {
		t.Run(name, func(t *testing.T) { check(t, ValidateMetadata(c.in), c.field) })
	}
}

func TestMetadataErrorIsShort(t *testing.T) {
	err := ValidateMetadata(map[string]string{strings.Repeat("k", 100_000): ""})
	if err == nil || len(err.Error()) > 300 {
		t.Fatalf("want a short message, got %d bytes", len(err.Error()))
	}
}

// envOfSize makes one variable whose entry is exactly size bytes.
func envOfSize(size int) map[string]string {
	return map[string]string{"A": strings.Repeat("x", size-len("A=\x00"))}
}

func TestValidateEnvVars(t *testing.T) {
	many := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("V%d", i)] = "x"
		}
		return m
	}
	for name, c := range map[string]struct {
		in    map[string]string
		field string
	}{
		"nil":               {nil, ""},
		"256 entries":       {many(256), ""},
		"257 entries":       {many(257), "256 entries"},
		"128 KiB":           {envOfSize(128 << 10), ""},
		"128 KiB and one":   {envOfSize(128<<10 + 1), "131072 bytes"},
		"underscore, digit": {map[string]string{"_a1": "", "Z": ""}, ""},
		"leading digit":     {map[string]string{"1A": ""}, `"1A"`},
		"dash":              {map[string]string{"A-B": ""}, `"A-B"`},
		"equals sign":       {map[string]string{"A=B": ""}, `"A=B"`},
		"empty name":        {map[string]string{"": ""}, `""`},
		"not ASCII":         {map[string]string{"É": ""}, `"É"`},
		"newline in value":  {map[string]string{"A": "a\nb"}, ""},
		"NUL in value":      {map[string]string{"A": "a\x00b"}, `"A"`},
	} {
		t.Run(name, func(t *testing.T) { check(t, ValidateEnvVars(c.in), c.field) })
	}
}

func TestValidTemplateName(t *testing.T) {
	for name, want := range map[string]bool{
		"superserve/base": true, "a": true, "superserve/python-3.11": true, "a_b": true, strings.Repeat("a", 128): true,
		strings.Repeat("a", 129): false, "": false, "/a": false, "a/": false, "A": false, "a b": false, "-a": false, "a\n": false, "é": false,
	} {
		if got := ValidTemplateName(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

// FuzzValidate: what is accepted keeps every limit, and the counted size is that of real JSON.
func FuzzValidate(f *testing.F) {
	f.Add("box", "key", "value")
	f.Add(" é\n", "superserve.x", "\x00\"\\")
	f.Add(strings.Repeat("n", 65), strings.Repeat("k", 257), "\u2028<>&")
	f.Fuzz(func(t *testing.T, name, key, value string) {
		if got, err := ValidateName(name); err == nil {
			if n := utf8.RuneCountInString(got); n < 1 || n > 64 || strings.TrimSpace(got) != got || strings.ContainsFunc(got, unicode.IsControl) {
				t.Errorf("accepted the name %q", name)
			}
		}
		if ValidateMetadata(map[string]string{key: value}) == nil {
			var text strings.Builder
			enc := json.NewEncoder(&text)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(map[string]string{key: value}); err != nil {
				t.Fatal(err)
			}
			// encoding/json also escapes U+2028 and U+2029 (3 bytes become 6) and DEL never.
			extra := 3 * (strings.Count(key+value, "\u2028") + strings.Count(key+value, "\u2029"))
			if want := text.Len() - len("\n") - extra; jsonSize(map[string]string{key: value}) != want {
				t.Errorf("jsonSize of %q: %q is %d, want %d", key, value, jsonSize(map[string]string{key: value}), want)
			}
		}
		if ValidateEnvVars(map[string]string{key: value}) == nil {
			if strings.ContainsAny(key, "= \x00") || key == "" || strings.Contains(value, "\x00") || len(key)+len(value)+2 > 128<<10 {
				t.Errorf("accepted the variable %q", key)
			}
		}
	})
}
