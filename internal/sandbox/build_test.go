package sandbox

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValidateBuildSpec(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	step := func(s BuildStep) BuildSpec { return BuildSpec{From: "alpine", Steps: []BuildStep{s}} }
	cp := func(c CopyStep) BuildSpec { return step(BuildStep{Copy: &c}) }
	for name, c := range map[string]struct {
		spec  BuildSpec
		field string
	}{
		"image":               {BuildSpec{From: "registry.example.com:5000/team/app@" + digest}, ""},
		"template":            {BuildSpec{FromTemplate: "superserve/base"}, ""},
		"template's id":       {BuildSpec{FromTemplate: "3C90C3CC-0d44-4b50-8888-8dd25736052a"}, ""},
		"upload":              {BuildSpec{From: FromUpload(digest)}, ""},
		"no source":           {BuildSpec{}, "exactly one of from and from_template"},
		"two sources":         {BuildSpec{From: "a", FromTemplate: "b"}, "exactly one of from and from_template"},
		"wrong template":      {BuildSpec{FromTemplate: "No"}, "build_spec.from_template"},
		"wrong upload":        {BuildSpec{From: "upload:sha256:ab"}, "build_spec.from"},
		"space in reference":  {BuildSpec{From: "a b"}, "build_spec.from"},
		"long reference":      {BuildSpec{From: strings.Repeat("a", 513)}, "build_spec.from"},
		"256 steps":           {BuildSpec{From: "a", Steps: steps(256)}, ""},
		"257 steps":           {BuildSpec{From: "a", Steps: steps(257)}, "build_spec.steps must have at most 256"},
		"empty step":          {step(BuildStep{}), "build_spec.steps[0]"},
		"two in one step":     {step(BuildStep{Run: "a", Workdir: "/"}), "exactly one of run, env"},
		"long run":            {step(BuildStep{Run: strings.Repeat("a", 64<<10+1)}), "run must be at most 65536"},
		"NUL in run":          {step(BuildStep{Run: "a\x00"}), "run must be valid"},
		"newline in run":      {step(BuildStep{Run: "a\nb"}), ""},
		"env":                 {step(BuildStep{Env: &EnvStep{Key: "A_1", Value: ""}}), ""},
		"env's key":           {step(BuildStep{Env: &EnvStep{Key: "1A"}}), "env.key"},
		"env's value":         {step(BuildStep{Env: &EnvStep{Key: "A", Value: "\x00"}}), "env.value"},
		"much env":            {step(BuildStep{Env: &EnvStep{Key: "A", Value: strings.Repeat("a", 128<<10)}}), "at most 131072 bytes in total"},
		"relative workdir":    {step(BuildStep{Workdir: "app"}), ""},
		"workdir upwards":     {step(BuildStep{Workdir: "/app/../etc"}), "workdir"},
		"control in workdir":  {step(BuildStep{Workdir: "/a\n"}), "workdir"},
		"long workdir":        {step(BuildStep{Workdir: strings.Repeat("a", 4097)}), "workdir"},
		"user":                {step(BuildStep{User: &UserStep{Name: "www-data", Sudo: true}}), ""},
		"user's number":       {step(BuildStep{User: &UserStep{Name: "1000"}}), ""},
		"option as user":      {step(BuildStep{User: &UserStep{Name: "-m"}}), "user.name"},
		"no user":             {step(BuildStep{User: &UserStep{}}), "user.name"},
		"colon in user":       {step(BuildStep{User: &UserStep{Name: "a:b"}}), "user.name"},
		"copy":                {cp(CopyStep{Context: digest, Src: []string{".", "a/b"}, Dst: "x/", Chown: "1:www-data"}), ""},
		"copy's context":      {cp(CopyStep{Context: strings.ToUpper(digest), Src: []string{"."}, Dst: "/"}), "copy.context"},
		"nothing to copy":     {cp(CopyStep{Context: digest, Dst: "/"}), "copy.src must have 1 to 256"},
		"absolute source":     {cp(CopyStep{Context: digest, Src: []string{"/etc"}, Dst: "/"}), "copy.src"},
		"source upwards":      {cp(CopyStep{Context: digest, Src: []string{"a/.."}, Dst: "/"}), "copy.src"},
		"no destination":      {cp(CopyStep{Context: digest, Src: []string{"."}}), "copy.dst"},
		"owner":               {cp(CopyStep{Context: digest, Src: []string{"."}, Dst: "/", Chown: ":g"}), "copy.chown"},
		"owner's group":       {cp(CopyStep{Context: digest, Src: []string{"."}, Dst: "/", Chown: "a:b:c"}), "copy.chown"},
		"long start_cmd":      {BuildSpec{From: "a", StartCmd: strings.Repeat("a", 64<<10+1)}, "build_spec.start_cmd"},
		"not UTF-8 ready_cmd": {BuildSpec{From: "a", ReadyCmd: "\xff"}, "build_spec.ready_cmd"},
	} {
		t.Run(name, func(t *testing.T) { check(t, c.spec.Validate(), c.field) })
	}
}

func steps(n int) []BuildStep {
	all := make([]BuildStep, n)
	for i := range all {
		all[i].Run = "true"
	}
	return all
}

func TestValidateTemplate(t *testing.T) {
	for name, field := range map[string]string{
		"a": "", "a/b.c_d-e": "", strings.Repeat("a", 128): "", "superserve": "", "superserve-x/y": "",
		"": "name", "A": "name", "a/": "name", "-a": "name", strings.Repeat("a", 129): "name",
		"superserve/x": "reserved", "3c90c3cc-0d44-4b50-8888-8dd25736052a": "UUID",
	} {
		check(t, ValidateNewTemplateName(name), field)
	}
	highest := DefaultTemplateLimits()
	for _, c := range []struct {
		r     Resources
		field string
	}{
		{Resources{1, 256, 1024}, ""}, {highest, ""},
		{Resources{0, 256, 1024}, "vcpu must be 1 to 4; got 0"}, {Resources{5, 256, 1024}, "vcpu"},
		{Resources{1, 255, 1024}, "memory_mib must be 256 to 4096"}, {Resources{1, 4097, 1024}, "memory_mib"},
		{Resources{1, 256, 1023}, "disk_mib must be 1024 to 8192"}, {Resources{1, 256, 8193}, "disk_mib"},
	} {
		check(t, ValidateResources(c.r, highest), c.field)
	}
}

// What the hash is made from is stored and compared over time: it must not change by accident.
func TestBuildSpecHash(t *testing.T) {
	spec := BuildSpec{From: "alpine", Steps: []BuildStep{{Run: "a <&> b"}, {Env: &EnvStep{Key: "K", Value: "v"}}}}
	const want = "ea420121f82ecac31e3135ddaca64fd7279387447f2119450af08208c33b74ea"
	if got := spec.Hash(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	again := spec
	again.Steps = append([]BuildStep{}, spec.Steps...)
	again.ReadyCmd = ""
	if again.Hash() != spec.Hash() {
		t.Error("the same spec has another hash")
	}
	none, empty := BuildSpec{From: "a"}, BuildSpec{From: "a", Steps: []BuildStep{}}
	if none.Hash() != empty.Hash() {
		t.Error("no steps and an empty list differ")
	}
	again.Steps[1].Env.Expand = true
	if again.Hash() == want {
		t.Error("another spec has the same hash")
	}
}

func TestSpecUploads(t *testing.T) {
	spec := BuildSpec{From: FromUpload("sha256:i"), Steps: []BuildStep{
		{Copy: &CopyStep{Context: "sha256:a"}}, {Run: "x"}, {Copy: &CopyStep{Context: "sha256:b"}}, {Copy: &CopyStep{Context: "sha256:a"}},
	}}
	got, err := json.Marshal(spec.Uploads())
	if err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"i", "a", "b"} {
		if strings.Count(string(got), `"sha256:`+digest+`"`) != 1 {
			t.Errorf("sha256:%s is not there once: %s", digest, got)
		}
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "B": "$A"}
	for text, want := range map[string]string{
		"": "", "x": "x", "${A}": "1", "a${A}b${B}c": "a1b$Ac", "${NONE}": "", "$$": "$", "$${A}": "${A}", "$A": "$A", "$": "$",
		"${": "${", "${A": "${A", "${}": "${}", "${1}": "${1}", "$$$${A}": "$${A}", "${A}${A}$": "11$",
	} {
		if got, ok := Expand(text, env, len(want)); got != want || !ok {
			t.Errorf("Expand(%q) = %q, %t, want %q", text, got, ok, want)
		}
		if got, ok := Expand(text, env, len(want)-1); ok {
			t.Errorf("Expand(%q) = %q, which is over the limit", text, got)
		}
	}
}

func TestBuildStatus(t *testing.T) {
	for status, final := range map[BuildStatus]bool{
		BuildPending: false, BuildBuilding: false, BuildSnapshotting: false, BuildReady: true, BuildFailed: true, BuildCancelled: true,
	} {
		if status.Final() != final {
			t.Errorf("%s is final: %v", status, status.Final())
		}
	}
}
