package cli

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/superserve/superserve/client"
)

func TestJSONTimesHaveThreeDigits(t *testing.T) {
	whole := time.Date(2026, 1, 2, 16, 4, 5, 0, time.FixedZone("", 3600))
	fine := whole.Add(123456789)
	var out bytes.Buffer
	a := &App{Out: &out}
	for _, c := range []struct {
		v    any
		want string
	}{
		{struct {
			At    time.Time  `json:"at"`
			None  *time.Time `json:"none,omitempty"`
			Other *time.Time `json:"other"`
			Text  string     `json:"text"`
		}{whole, nil, &fine, "2026-01-02T15:04:05Z"},
			`{"at":"2026-01-02T15:04:05.000Z","other":"2026-01-02T15:04:05.123Z","text":"2026-01-02T15:04:05Z"}`},
		{[]*keyOutput{{ID: "1", CreatedAt: whole}}, `[{"id":"1","name":"","prefix":"","created_at":"2026-01-02T15:04:05.000Z"}]`},
		{map[string]time.Time{"a": fine}, `{"a":"2026-01-02T15:04:05.123Z"}`},
		{[]keyOutput{}, `[]`},
		{[]time.Time(nil), `null`},
		{map[string]any{"size": 1}, `{"size":1}`},
		{nil, `null`},
	} {
		out.Reset()
		if err := a.printJSON(c.v); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := json.Compact(&got, out.Bytes()); err != nil || got.String() != c.want {
			t.Errorf("got  %s (%v)\nwant %s", got.String(), err, c.want)
		}
	}
	// Nothing else of the API's largest object changes.
	sb := client.Sandbox{ID: "1", CreatedAt: fine.UTC().Truncate(time.Millisecond), Metadata: map[string]string{"a": "<"}, ExpiresAt: new(fine.UTC().Truncate(time.Millisecond))}
	want, err := json.Marshal(sb)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := json.Marshal(withMillis(&sb)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("got  %s (%v)\nwant %s", got, err, want)
	}
}
