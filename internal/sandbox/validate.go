package sandbox

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of wire section 2.
const (
	MaxNameChars           = 64     // characters of a sandbox's name, after trimming
	MaxTimeoutSeconds      = 604800 // 7 days
	MaxAutoDeleteSeconds   = 2592000
	MaxMetadataKeys        = 64
	MaxMetadataKeyBytes    = 256
	MaxMetadataValueBytes  = 2048
	MaxMetadataBytes       = 16384 // of the whole object as compact JSON
	MaxEnvVars             = 256
	MaxEnvBytes            = 128 << 10 // of all entries, each counted as the kernel does: NAME=value and a NUL
	MaxIdempotencyKeyChars = 255
)

// ValidateName trims a sandbox's name and returns it, or bad_request when it is not 1 to MaxNameChars characters long
// or holds control characters.
func ValidateName(name string) (string, error) {
	name = strings.TrimSpace(name)
	if err := validateText("name", name, MaxNameChars); err != nil {
		return "", err
	}
	return name, nil
}

// ValidateIdempotencyKey checks the value of an Idempotency-Key header.
func ValidateIdempotencyKey(key string) error {
	return validateText("Idempotency-Key", key, MaxIdempotencyKeyChars)
}

// validateText wants 1 to limit characters of UTF-8 without control characters.
func validateText(field, text string, limit int) error {
	switch n := utf8.RuneCountInString(text); {
	case !utf8.ValidString(text):
		return Errorf(CodeBadRequest, "%s must be valid UTF-8", field)
	case n < 1 || n > limit:
		return Errorf(CodeBadRequest, "%s must be 1 to %d characters long; got %d", field, limit, n)
	case strings.ContainsFunc(text, unicode.IsControl):
		return Errorf(CodeBadRequest, "%s must not hold control characters", field)
	}
	return nil
}

// ValidateTimeoutSeconds checks timeout_seconds.
func ValidateTimeoutSeconds(seconds int) error {
	return validateRange("timeout_seconds", seconds, 1, MaxTimeoutSeconds)
}

// ValidateAutoDeleteSeconds checks auto_delete_seconds.
func ValidateAutoDeleteSeconds(seconds int) error {
	return validateRange("auto_delete_seconds", seconds, 0, MaxAutoDeleteSeconds)
}

func validateRange(field string, value, lowest, highest int) error {
	if value < lowest || value > highest {
		return Errorf(CodeBadRequest, "%s must be %d to %d; got %d", field, lowest, highest, value)
	}
	return nil
}

// ValidateTimeoutAction checks timeout_action.
func ValidateTimeoutAction(action TimeoutAction) error {
	if action != TimeoutDelete && action != TimeoutPause {
		return Errorf(CodeBadRequest, "timeout_action must be delete or pause; got %s", quote(string(action)))
	}
	return nil
}

// ValidateMetadata checks a whole metadata object. NUL is refused besides what the contract names, because PostgreSQL
// cannot keep it.
func ValidateMetadata(metadata map[string]string) error {
	if len(metadata) > MaxMetadataKeys {
		return Errorf(CodeBadRequest, "metadata must have at most %d keys; got %d", MaxMetadataKeys, len(metadata))
	}
	for _, key := range slices.Sorted(maps.Keys(metadata)) {
		if err := validateMetadataEntry(key, metadata[key]); err != nil {
			return err
		}
	}
	if size := jsonSize(metadata); size > MaxMetadataBytes {
		return Errorf(CodeBadRequest, "metadata must be at most %d bytes as JSON; got %d", MaxMetadataBytes, size)
	}
	return nil
}

func validateMetadataEntry(key, value string) error {
	lower := strings.ToLower(key)
	switch {
	case len(key) > MaxMetadataKeyBytes:
		return Errorf(CodeBadRequest, "metadata key %s must be at most %d bytes; got %d", quote(key), MaxMetadataKeyBytes, len(key))
	case len(value) > MaxMetadataValueBytes:
		return Errorf(CodeBadRequest, "metadata value of %s must be at most %d bytes; got %d", quote(key), MaxMetadataValueBytes, len(value))
	case strings.HasPrefix(lower, "superserve.") || strings.HasPrefix(lower, "_superserve"):
		return Errorf(CodeBadRequest, "metadata key %s is reserved: keys must not start with superserve. or _superserve", quote(key))
	case !plainText(key) || !plainText(value):
		return Errorf(CodeBadRequest, "metadata entry %s must be valid UTF-8 without NUL characters", quote(key))
	}
	return nil
}

func plainText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// jsonSize is the length of a string map as compact JSON, escaping only what JSON must. It does not depend on a
// library's habits (such as escaping < for HTML), so clients can count it the same way.
func jsonSize(m map[string]string) int {
	size := len("{}") + max(0, len(m)-1)
	for key, value := range m {
		size += jsonStringSize(key) + len(":") + jsonStringSize(value)
	}
	return size
}

func jsonStringSize(s string) int {
	size := len(`""`) + len(s)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t':
			size++ // two characters
		case c < 0x20:
			size += 5 // \u00XX
		}
	}
	return size
}

// ValidateEnvVars checks environment variables: how many, their names, their values, and their size together.
func ValidateEnvVars(env map[string]string) error {
	if len(env) > MaxEnvVars {
		return Errorf(CodeBadRequest, "env_vars must have at most %d entries; got %d", MaxEnvVars, len(env))
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !validEnvName(name) {
			return Errorf(CodeBadRequest, "env_vars name %s must be letters, digits and _, not starting with a digit", quote(name))
		}
		if !plainText(env[name]) {
			return Errorf(CodeBadRequest, "env_vars value of %s must be valid UTF-8 without NUL characters", quote(name))
		}
		total += len(name) + len(env[name]) + len("=\x00")
	}
	if total > MaxEnvBytes {
		return Errorf(CodeBadRequest, "env_vars must be at most %d bytes in total; got %d", MaxEnvBytes, total)
	}
	return nil
}

func validEnvName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// ValidTemplateName says whether a template may be called this (wire section 4).
func ValidTemplateName(name string) bool {
	if name == "" || len(name) > MaxTemplateNameBytes {
		return false
	}
	for i := range len(name) {
		c := name[i]
		edge := i == 0 || i == len(name)-1
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (edge || !strings.ContainsRune("._/-", rune(c))) {
			return false
		}
	}
	return true
}

// Shorten cuts a text of more than most bytes, and says so by an ellipsis.
func Shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// quote shows client input in a message, cut to a length that people read.
func quote(s string) string {
	const shown = 64
	s = Shorten(s, shown)
	return `"` + strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '\uFFFD'
		}
		return r
	}, s) + `"`
}
