package sandbox

import (
	"path"
	"slices"
	"strings"
	"unicode"
)

// The limits of a template and its build spec (wire section 4). What a template's sandboxes may have at most is the
// operator's to raise: TemplateLimits.
const (
	MaxTemplateNameBytes = 128
	MaxBuildSteps        = 256
	MaxBuildCommandBytes = 64 << 10 // of one run, start_cmd or ready_cmd
	MaxReferenceBytes    = 512      // of from
	MaxCopySources       = 256      // of one copy
	maxBuildPathBytes    = 4096
	maxUserNameBytes     = 32

	systemTemplatePrefix = "superserve/"
)

// The lowest shape of a template.
const (
	MinVCPU      = 1
	MinMemoryMiB = 256
	MinDiskMiB   = 1024
)

// DefaultTemplateShape is the shape of a template that is asked for without one.
func DefaultTemplateShape() Resources { return Resources{VCPU: 1, MemoryMiB: 1024, DiskMiB: 4096} }

// DefaultTemplateLimits are the highest shape unless the operator raises it.
func DefaultTemplateLimits() Resources { return Resources{VCPU: 4, MemoryMiB: 4096, DiskMiB: 8192} }

// ValidateResources checks a template's shape against the highest there may be.
func ValidateResources(r, highest Resources) error {
	if err := validateRange("vcpu", r.VCPU, MinVCPU, highest.VCPU); err != nil {
		return err
	}
	if err := validateRange("memory_mib", r.MemoryMiB, MinMemoryMiB, highest.MemoryMiB); err != nil {
		return err
	}
	return validateRange("disk_mib", r.DiskMiB, MinDiskMiB, highest.DiskMiB)
}

// ValidateNewTemplateName checks the name a team gives a template.
func ValidateNewTemplateName(name string) error {
	switch {
	case !ValidTemplateName(name):
		return Errorf(CodeBadRequest, "name must be 1 to %d of a-z, 0-9, '.', '_', '/' and '-', beginning and ending with a letter or digit; got %s",
			MaxTemplateNameBytes, quote(name))
	case strings.HasPrefix(name, systemTemplatePrefix):
		return Errorf(CodeBadRequest, "name must not begin with %s: such names are reserved for system templates", systemTemplatePrefix)
	case ValidID(name):
		return Errorf(CodeBadRequest, "name must not be a UUID: it would be taken for a template's id")
	}
	return nil
}

// Validate checks everything about a spec that can be checked without looking anything up.
func (s *BuildSpec) Validate() error {
	if err := s.validateSource(); err != nil {
		return err
	}
	if len(s.Steps) > MaxBuildSteps {
		return Errorf(CodeBadRequest, "build_spec.steps must have at most %d entries; got %d", MaxBuildSteps, len(s.Steps))
	}
	env := 0
	for i, step := range s.Steps {
		if err := step.validate(); err != nil {
			return Errorf(CodeBadRequest, "build_spec.steps[%d]: %s", i, err.Message)
		}
		if step.Env != nil {
			env += len(step.Env.Key) + len(step.Env.Value) + len("=\x00")
		}
	}
	if env > MaxEnvBytes {
		return Errorf(CodeBadRequest, "the env steps of build_spec must be at most %d bytes in total; got %d", MaxEnvBytes, env)
	}
	if err := validateCommand("start_cmd", s.StartCmd); err != nil {
		return Errorf(CodeBadRequest, "build_spec.%s", err.Message)
	}
	if err := validateCommand("ready_cmd", s.ReadyCmd); err != nil {
		return Errorf(CodeBadRequest, "build_spec.%s", err.Message)
	}
	return nil
}

func (s *BuildSpec) validateSource() error {
	if (s.From == "") == (s.FromTemplate == "") {
		return Errorf(CodeBadRequest, "build_spec must have exactly one of from and from_template")
	}
	if s.FromTemplate != "" {
		if !ValidID(strings.ToLower(s.FromTemplate)) && !ValidTemplateName(s.FromTemplate) {
			return Errorf(CodeBadRequest, "build_spec.from_template must be a template's name or UUID; got %s", quote(s.FromTemplate))
		}
		return nil
	}
	if digest, ok := s.UploadedImage(); ok {
		if !ValidDigest(digest) {
			return Errorf(CodeBadRequest, "build_spec.from must be upload:sha256: and 64 hex digits, as POST /templates/images answers; got %s", quote(s.From))
		}
		return nil
	}
	// Whether it is a reference is for the build to find out: its grammar is the registries'.
	if len(s.From) > MaxReferenceBytes || strings.ContainsFunc(s.From, notInReference) {
		return Errorf(CodeBadRequest, "build_spec.from must be an image reference of at most %d ASCII characters without spaces; got %s", MaxReferenceBytes, quote(s.From))
	}
	return nil
}

func notInReference(r rune) bool { return r <= ' ' || r >= 0x7f }

// ValidDigest says whether s is "sha256:" and 64 lower-case hex digits. Digests become file names.
func ValidDigest(s string) bool {
	hexDigits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hexDigits) == 64 && strings.Trim(hexDigits, "0123456789abcdef") == ""
}

func (s *BuildStep) validate() *Error {
	given := 0
	for _, set := range []bool{s.Run != "", s.Env != nil, s.Workdir != "", s.User != nil, s.Copy != nil} {
		if set {
			given++
		}
	}
	switch {
	case given != 1:
		return Errorf(CodeBadRequest, "a step must have exactly one of run, env, workdir, user and copy, and it must not be empty")
	case s.Env != nil:
		return s.Env.validate()
	case s.Workdir != "":
		return validateBuildPath("workdir", s.Workdir)
	case s.User != nil:
		return validateUserName("user.name", s.User.Name)
	case s.Copy != nil:
		return s.Copy.validate()
	}
	return validateCommand("run", s.Run)
}

func (e *EnvStep) validate() *Error {
	if !validEnvName(e.Key) {
		return Errorf(CodeBadRequest, "env.key %s must be letters, digits and _, not starting with a digit", quote(e.Key))
	}
	if !plainText(e.Value) {
		return Errorf(CodeBadRequest, "env.value of %s must be valid UTF-8 without NUL characters", quote(e.Key))
	}
	return nil
}

func (c *CopyStep) validate() *Error {
	if !ValidDigest(c.Context) {
		return Errorf(CodeBadRequest, "copy.context must be sha256: and 64 hex digits, as POST /templates/contexts answers; got %s", quote(c.Context))
	}
	if len(c.Src) < 1 || len(c.Src) > MaxCopySources {
		return Errorf(CodeBadRequest, "copy.src must have 1 to %d entries; got %d", MaxCopySources, len(c.Src))
	}
	for _, src := range c.Src {
		if err := validateBuildPath("copy.src", src); err != nil {
			return err
		}
		if path.IsAbs(src) {
			return Errorf(CodeBadRequest, "copy.src %s must be relative to the context", quote(src))
		}
	}
	if err := validateBuildPath("copy.dst", c.Dst); err != nil {
		return err
	}
	if c.Chown == "" {
		return nil
	}
	owner, group, grouped := strings.Cut(c.Chown, ":")
	if err := validateUserName("copy.chown", owner); err != nil {
		return err
	}
	if grouped {
		return validateUserName("copy.chown", group)
	}
	return nil
}

// validateBuildPath wants a path of a file system that stays below where it starts.
func validateBuildPath(field, p string) *Error {
	switch {
	case p == "" || len(p) > maxBuildPathBytes:
		return Errorf(CodeBadRequest, "%s must be 1 to %d bytes long; got %d", field, maxBuildPathBytes, len(p))
	case !plainText(p) || strings.ContainsFunc(p, unicode.IsControl):
		return Errorf(CodeBadRequest, "%s %s must be valid UTF-8 without control characters", field, quote(p))
	case slices.Contains(strings.Split(p, "/"), ".."):
		return Errorf(CodeBadRequest, "%s %s must not hold a .. segment", field, quote(p))
	}
	return nil
}

// validateUserName wants a name as useradd takes it, or a number.
func validateUserName(field, name string) *Error {
	ok := name != "" && len(name) <= maxUserNameBytes && name[0] != '-'
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '.')
	}
	if !ok {
		return Errorf(CodeBadRequest, "%s must be 1 to %d letters, digits, '.', '_' and '-', not beginning with '-'; got %s", field, maxUserNameBytes, quote(name))
	}
	return nil
}

func validateCommand(field, command string) *Error {
	if len(command) > MaxBuildCommandBytes {
		return Errorf(CodeBadRequest, "%s must be at most %d bytes long; got %d", field, MaxBuildCommandBytes, len(command))
	}
	if !plainText(command) {
		return Errorf(CodeBadRequest, "%s must be valid UTF-8 without NUL characters", field)
	}
	return nil
}
