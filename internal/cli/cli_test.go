package cli_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/superserve/superserve/internal/cli"
)

// TestMain makes this test binary the program superserve for the scripts.
func TestMain(m *testing.M) {
	os.Exit(testscript.RunMain(m, map[string]func() int{"superserve": runSuperserve}))
}

func runSuperserve() int {
	app := &cli.App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Environ: os.Environ(), Version: "v0.0.0-test",
		Host: newMemoryHost().open,
	}
	return cli.Main(context.Background(), app, os.Args[1:])
}

// TestScripts runs testdata/*.txtar, each with a fake API of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			api := newFakeAPI()
			env.Defer(api.Close)
			env.Setenv("SUPERSERVE_BASE_URL", api.URL)
			env.Setenv("SUPERSERVE_API_KEY", fakeKey)
			env.Setenv("ID", fakeID)
			// A script that fails half-way must not leave its server running.
			env.Defer(func() {
				app := &cli.App{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}
				cli.Main(context.Background(), app, []string{"down", "--data-dir", filepath.Join(env.WorkDir, "data")})
			})
			return nil
		},
	})
}

// run is one call of the program in this process.
func run(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	app := &cli.App{In: strings.NewReader(""), Out: &out, Err: &errs, Environ: environ, Version: "v0.0.0-test"}
	code = cli.Main(t.Context(), app, args)
	return code, out.String(), errs.String()
}

func TestCLIReferenceIsCurrent(t *testing.T) {
	want, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, got, _ := run(t, nil, "docs", "cli"); got != string(want) {
		t.Error("docs/cli.md differs from the commands; run make generate")
	}
}
