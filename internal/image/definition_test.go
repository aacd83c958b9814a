package image

import (
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/templates"
)

const minimal = "name: superserve/x\nvcpu: 1\nmemory_mib: 256\ndisk_mib: 1024\ndebian: {suite: bookworm}\n"

func TestShippedDefinitions(t *testing.T) {
	all, err := Definitions(templates.Files())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 || all[0].Name != sandbox.DefaultTemplate {
		t.Fatalf("the first definition must be %s: %+v", sandbox.DefaultTemplate, all)
	}
	if all[0].Resources != (sandbox.Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096}) {
		t.Errorf("resources of the base template: %+v", all[0].Resources)
	}
}

func TestParseDefinitionDefaults(t *testing.T) {
	d, err := ParseDefinition([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if d.User != "root" || d.Workdir != "/home/user" {
		t.Errorf("defaults: user %q, workdir %q", d.User, d.Workdir)
	}
}

func TestParseDefinitionRefuses(t *testing.T) {
	for _, c := range []struct{ what, yaml, want string }{
		{"unknown key", minimal + "vcpus: 2\n", "vcpus"},
		{"unknown nested key", strings.Replace(minimal, "bookworm", "bookworm, mirror: x", 1), "mirror"},
		{"duplicate key", minimal + "vcpu: 2\n", "vcpu"},
		{"two documents", minimal + "---\n" + minimal, "more than one"},
		{"not yaml", ":\n\t- [", "parsing"},
		{"empty", "", "parsing"},
		{"bad name", strings.Replace(minimal, "superserve/x", "Superserve", 1), "name must"},
		{"vcpu too small", strings.Replace(minimal, "vcpu: 1", "vcpu: 0", 1), "vcpu must be between 1 and 64"},
		{"vcpu too large", strings.Replace(minimal, "vcpu: 1", "vcpu: 65", 1), "vcpu must be between"},
		{"memory too small", strings.Replace(minimal, "256", "255", 1), "memory_mib must be between"},
		{"disk too small", strings.Replace(minimal, "1024", "1023", 1), "disk_mib must be between"},
		{"suite is an option", strings.Replace(minimal, "bookworm", "--help", 1), "debian.suite"},
		{"package is an option", strings.Replace(minimal, "bookworm", "bookworm, packages: [--help]", 1), "not the name of a package"},
		{"package with a comma", strings.Replace(minimal, "bookworm", "bookworm, packages: ['a1,b1']", 1), "not the name of a package"},
		{"package twice", strings.Replace(minimal, "bookworm", "bookworm, packages: [git, git]", 1), "twice"},
		{"bad user", minimal + "user: Root\n", "user must"},
		{"relative workdir", minimal + "workdir: home\n", "workdir must"},
		{"climbing workdir", minimal + "workdir: /home/../etc\n", "clean"},
		{"workdir in a mount", minimal + "workdir: /proc/x\n", "workdir must be below"},
		{"bad env name", minimal + "env: {'A-B': x}\n", "env:"},
		{"NUL in env", minimal + "env: {A: \"x\\0y\"}\n", "NUL"},
		{"NUL in the script", minimal + "script: \"x\\0y\"\n", "script"},
		{"too long", minimal + "#" + strings.Repeat("x", maxDefinition), "bytes"},
	} {
		if _, err := ParseDefinition([]byte(c.yaml)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not say %q", c.what, err, c.want)
		}
	}
}

func TestHashes(t *testing.T) {
	base, err := ParseDefinition([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	image := func(d Definition) string { return d.imageHash([]string{"ca"}, "") }

	larger := base
	larger.Resources.MemoryMiB = 512
	if larger.Hash() == base.Hash() {
		t.Error("Hash does not see a change of memory_mib")
	}
	if image(larger) != image(base) {
		t.Error("the image depends on memory_mib")
	}
	more := base
	more.Debian.Packages = []string{"git"}
	if image(more) == image(base) || more.Hash() == base.Hash() {
		t.Error("a new package is not seen")
	}
	if base.imageHash(nil, "") == image(base) || base.imageHash([]string{"ca"}, "http://m/") == image(base) {
		t.Error("CA certificates or the mirror are not part of the source hash")
	}
}

func FuzzParseDefinition(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("env: {<<: {A: b}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDefinition(data)
		if err == nil && d.Validate() != nil {
			t.Fatalf("accepted %q, which is not valid", data)
		}
	})
}
