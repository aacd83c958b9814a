package httpapi

import (
	"encoding/json"
	"maps"
	"testing"
)

func FuzzDecodePatch(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `{"metadata":{"a":"b"}}`, `{"timeout_seconds":null,"auto_delete_seconds":6e1}`,
		`{"network":{"allow_out":["a"],"deny_out":null}}`, `{"timeout_action":"pause"}`, `{"metadata":{"a":null}}`,
		`{"metadata":{"\ud800":""}}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		patch, err := decodePatch(body)
		_, _ = decodeCreate(body) // must not panic
		if err != nil {
			return
		}
		// What was decoded says the same as the lenient standard decoder.
		var plain struct {
			Metadata          map[string]string `json:"metadata"`
			TimeoutSeconds    *json.Number      `json:"timeout_seconds"`
			AutoDeleteSeconds *json.Number      `json:"auto_delete_seconds"`
		}
		if err := json.Unmarshal(body, &plain); err != nil {
			t.Fatalf("%q was accepted: %v", body, err)
		}
		if patch.Metadata != nil && !maps.Equal(*patch.Metadata, plain.Metadata) {
			t.Fatalf("metadata %q of %q", *patch.Metadata, body)
		}
		if p := patch.TimeoutSeconds; (p != nil && *p != nil) != (plain.TimeoutSeconds != nil) {
			t.Fatalf("timeout_seconds of %q", body)
		}
		if p := patch.AutoDeleteSeconds; (p != nil && *p != nil) != (plain.AutoDeleteSeconds != nil) {
			t.Fatalf("auto_delete_seconds of %q", body)
		}
	})
}

func FuzzRequestID(f *testing.F) {
	f.Add("abc")
	f.Add("a\nb")
	f.Fuzz(func(t *testing.T, given string) {
		got := saneRequestID(given)
		if saneRequestID(got) != got {
			t.Fatalf("%q became %q, which is not sane", given, got)
		}
	})
}
