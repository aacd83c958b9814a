// Package arch checks which package may import which (docs/ARCHITECTURE.md). The linter has the same rules with the
// reasons next to them; this test needs no tool but go and also sees indirect imports.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/superserve/superserve/"

// allowed lists, for each package of the module, which others of the module it may import, directly or not. A rule
// holds for the packages below its name too. "*" allows everything. A package without a rule fails the test: whoever
// adds one decides where it stands.
func allowed() map[string][]string {
	return map[string][]string{
		"client":                {"client"},
		"internal/sandbox":      {},
		"internal/token":        {},
		"internal/config":       {},
		"internal/servertls":    {},
		"internal/guestapi":     {},
		"internal/bundle":       {},
		"internal/dockerfile":   {},
		"internal/buildcontext": {},
		"internal/durable":      {},
		"internal/blob":         {"internal/sandbox"},
		"internal/metrics":      {"internal/control", "internal/sandbox", "internal/token"},
		"internal/control":      {"internal/sandbox", "internal/token"},
		"internal/store":        {"internal/store", "internal/control", "internal/sandbox", "internal/token"},
		"internal/httpapi":      {"internal/httpapi", "internal/control", "internal/sandbox", "internal/token"},
		"internal/edge":         {"internal/edge", "internal/token", "internal/control", "internal/sandbox", "internal/guestapi"},
		"internal/guest":        {"internal/guest", "internal/guestapi"},
		"internal/network":      {"internal/network", "internal/sandbox"},
		"internal/egress":       {"internal/egress", "internal/sandbox"},
		"internal/netlog":       {"internal/netlog", "internal/sandbox"},
		"internal/memwatch":     {"internal/sandbox", "internal/runtime", "internal/guestapi"},
		"internal/runtime":      {"internal/runtime", "internal/sandbox", "internal/guestapi", "internal/bundle"},
		"internal/snapshot":     {"internal/snapshot", "internal/sandbox", "internal/blob", "internal/runtime", "internal/durable"},
		"internal/image":        {"internal/image", "internal/sandbox", "internal/durable"},
		"internal/template":     {"internal/template", "internal/sandbox", "internal/image", "internal/durable"},
		"internal/doctor":       {},
		"internal/template/builder": {
			"internal/template", "internal/control", "internal/token", "internal/sandbox", "internal/image", "internal/durable",
		},
		"internal/node":         nodeMayImport(),
		"internal/cli":          {"*"},
		"cmd/superserve":        {"*"},
		"cmd/boxd":              {"internal/guest", "internal/guestapi"},
		"cmd/superserve-runsc":  {},
		"templates":             {},
		"api":                   {},
		"test":                  {"*"},
		"internal/runtime/fake": {"internal/runtime", "internal/sandbox", "internal/guestapi", "internal/guest"},
	}
}

func nodeMayImport() []string {
	return []string{
		"internal/node", "internal/control", "internal/token", "internal/sandbox", "internal/runtime", "internal/network",
		"internal/snapshot", "internal/blob", "internal/image", "internal/template",
		"internal/guestapi", "internal/bundle", "internal/memwatch", "internal/durable",
	}
}

// standardLibraryOnly lists packages that may use nothing but the standard library besides what allowed gives them.
func standardLibraryOnly() []string {
	return []string{"internal/sandbox", "internal/token", "internal/durable", "internal/dockerfile"}
}

// goPackage is the part of go list's answer that matters here.
type goPackage struct {
	ImportPath string
	Standard   bool
	Deps       []string
	Error      *struct{ Err string }
}

func TestImports(t *testing.T) {
	packages := list(t, module+"...")
	rules := allowed()
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		rule, ok := ruleFor(name, rules)
		if !ok {
			t.Errorf("%s has no import rule; add one here and in .golangci.yml", name)
			continue
		}
		for _, dep := range p.Deps {
			dep, ours := strings.CutPrefix(dep, module)
			if ours && !permits(rule, dep) {
				t.Errorf("%s must not depend on %s (docs/ARCHITECTURE.md)", name, dep)
			}
		}
	}
}

func TestStandardLibraryOnly(t *testing.T) {
	for _, name := range standardLibraryOnly() {
		for _, p := range list(t, module+name) {
			for _, dep := range p.Deps {
				if first, _, _ := strings.Cut(dep, "/"); strings.Contains(first, ".") && !strings.HasPrefix(dep, module) {
					t.Errorf("%s must import only the standard library, but depends on %s", name, dep)
				}
			}
		}
	}
}

// The agent runs in every sandbox, so its dependencies are everybody's attack surface and size.
func TestAgentStaysSmall(t *testing.T) {
	for _, p := range list(t, module+"cmd/boxd") {
		for _, dep := range p.Deps {
			for _, heavy := range []string{"gvisor.dev/", "modernc.org/", "github.com/prometheus/", "github.com/jackc/"} {
				if strings.HasPrefix(dep, heavy) {
					t.Errorf("cmd/boxd depends on %s", dep)
				}
			}
		}
	}
}

// The rules themselves: a forbidden import must be noticed.
func TestRulesCanFail(t *testing.T) {
	rule, ok := ruleFor("internal/control/sub", allowed())
	if !ok || permits(rule, "internal/store") || !permits(rule, "internal/sandbox") {
		t.Errorf("internal/control: rule %v does not do what it says", rule)
	}
	if _, ok := ruleFor("internal/unheardof", allowed()); ok {
		t.Error("a package without a rule passed")
	}
}

// ruleFor takes the longest rule name that is name or a parent of it. A package may import those below itself.
func ruleFor(name string, rules map[string][]string) (rule []string, ok bool) {
	best := ""
	for r := range rules {
		if (name == r || strings.HasPrefix(name, r+"/")) && len(r) > len(best) {
			best = r
		}
	}
	if best == "" {
		return nil, false
	}
	return append(slices.Clone(rules[best]), best), true
}

func permits(rule []string, dep string) bool {
	return slices.ContainsFunc(rule, func(r string) bool {
		return r == "*" || dep == r || strings.HasPrefix(dep, r+"/")
	})
}

func list(t *testing.T, pattern string) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-json=ImportPath,Standard,Deps,Error", pattern).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pattern, err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("reading go list's answer: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatalf("go list %s found no package", pattern)
	}
	return packages
}
