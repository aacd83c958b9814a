package edge

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
)

func FuzzHostSandbox(f *testing.F) {
	const id, domain = "3c90c3cc-0d44-4b50-8888-8dd25736052a", "sandbox.example"
	for _, host := range []string{
		"boxd-" + id + "." + domain, "BOXD-" + id + "." + domain + ".:80", "boxd-" + id, "boxd-.." + domain, domain, "[::1]:80",
		"boxd-" + id + "." + domain + ":x", "boxd-" + id + "." + domain + ":", "evil.boxd-" + id + "." + domain, ":", ".",
	} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ours := hostSandbox(host, domain)
		if !ours || !sandbox.ValidID(got) {
			return
		}
		// Only this one name, with an optional dot and port, may lead to a sandbox.
		rest, ok := strings.CutPrefix(strings.ToLower(host), "boxd-"+got+"."+domain)
		rest = strings.TrimPrefix(rest, ".")
		if !ok || strings.Trim(strings.TrimPrefix(rest, ":"), "0123456789") != "" || rest != "" && rest[0] != ':' {
			t.Fatalf("%q leads to %s", host, got)
		}
	})
}

func FuzzRoute(f *testing.F) {
	e := New(Config{})
	for p := range e.routes {
		f.Add(p)
		f.Add(p + "/")
	}
	f.Add("/files/../_host/init")
	f.Add("/_host/init")
	f.Fuzz(func(t *testing.T, path string) {
		if rt, ok := e.routes[path]; ok && (rt.path != path || strings.Contains(path, "_host") || strings.ContainsAny(path, "%.")) {
			t.Fatalf("%q is a route", path)
		}
	})
}
