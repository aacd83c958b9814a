package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// The README's shell examples do what they show. Every block marked sh is run as it stands, in the repository's root.
func TestReadme(t *testing.T) {
	t.Parallel()
	blocks := strings.Split(readFile(t, "../../README.md"), "```sh\n")[1:]
	if len(blocks) < 2 {
		t.Fatalf("found %d shell examples in the README", len(blocks))
	}
	var out strings.Builder
	for _, rest := range blocks {
		script, _, _ := strings.Cut(rest, "```")
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
		cmd.Dir = "../.."
		cmd.Env = append(shared.Env(), "SUPERSERVE_BASE_URL="+shared.URL, "SUPERSERVE_API_KEY="+testKey)
		raw, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s\n%s", err, script, raw)
		}
		out.Write(raw)
	}
	for _, want := range []string{`{"stdout":"42\n","stderr":"","exit_code":0}`, "3\n2\n1\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the examples did not print %q but\n%s", want, out.String())
		}
	}
}
