package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/templates"
)

// TestSystemTemplateDefinitions: every one can be read, and is built unless the operator says otherwise.
func TestSystemTemplateDefinitions(t *testing.T) {
	all, err := image.Definitions(templates.Files())
	if err != nil {
		t.Fatal(err)
	}
	var defaults []string
	for _, s := range config.Settings() {
		if s.Key == "system-templates" {
			defaults = strings.Split(s.Default, ",")
		}
	}
	wanted, unwanted, err := systemTemplates(defaults)
	if err != nil || len(unwanted) > 0 || len(wanted) != len(all) {
		t.Fatalf("by default %d of %d are built, not %v, %v", len(wanted), len(all), unwanted, err)
	}
	if wanted[0].Name != sandbox.DefaultTemplate {
		t.Errorf("the first is %s: the server is ready before %s is", wanted[0].Name, sandbox.DefaultTemplate)
	}
	base := wanted[0]
	for _, d := range all {
		if !strings.HasPrefix(d.Name, "superserve/") {
			t.Errorf("%s is not in the system's name space", d.Name)
		}
		if !slices.IsSorted(d.Debian.Packages) {
			t.Errorf("%s: the packages are not in order", d.Name)
		}
		for _, p := range base.Debian.Packages {
			if !slices.Contains(d.Debian.Packages, p) && !slices.Contains(d.Debian.Packages, "python-is-"+p) {
				t.Errorf("%s lacks %s, which the base has", d.Name, p)
			}
		}
	}
}

func TestSystemTemplatesSetting(t *testing.T) {
	wanted, unwanted, err := systemTemplates([]string{"superserve/node-22", "superserve/base"})
	if err != nil || len(wanted) != 2 || wanted[0].Name != "superserve/node-22" || !slices.Contains(unwanted, "superserve/python-3.11") {
		t.Errorf("%v, %v, %v", wanted, unwanted, err)
	}
	for _, names := range [][]string{{"superserve/nothing"}, {"superserve/base", "superserve/base"}} {
		if _, _, err := systemTemplates(names); err == nil {
			t.Errorf("%v is accepted", names)
		}
	}
}
