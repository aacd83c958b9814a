package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// BuildStatus is how far a build is.
type BuildStatus string

// The statuses of wire section 4. The last three are final.
const (
	BuildPending      BuildStatus = "pending"
	BuildBuilding     BuildStatus = "building"
	BuildSnapshotting BuildStatus = "snapshotting"
	BuildReady        BuildStatus = "ready"
	BuildFailed       BuildStatus = "failed"
	BuildCancelled    BuildStatus = "cancelled"
)

// Final says that a build with this status is over.
func (s BuildStatus) Final() bool {
	return s == BuildReady || s == BuildFailed || s == BuildCancelled
}

// Build is one attempt to make a template from a spec.
type Build struct {
	ID         string // UUID
	TemplateID string
	TeamID     string
	Status     BuildStatus
	Spec       BuildSpec
	SpecHash   string // Spec.Hash()
	// Resources become the template's when the build is ready.
	Resources Resources
	// FromTemplateID is the template that Spec.FromTemplate named when the build was asked for; "" without one.
	FromTemplateID string
	ErrorMessage   string // "<code>: detail" when failed or cancelled
	CreatedAt      time.Time
	StartedAt      *time.Time // when it left pending
	FinalizedAt    *time.Time // when it became final
	// SourceDigest is the digest of the image that From stood for, "sha256:…"; "" until it is known.
	SourceDigest string
	// ImageID and CheckpointID are what it made; "" until it is ready.
	ImageID      string
	CheckpointID string
}

// BuildSpec says what a template is made from. Exactly one of From and FromTemplate is set.
type BuildSpec struct {
	// From is an OCI reference, or "upload:sha256:…": an image sent before as an archive.
	From string `json:"from,omitempty"`
	// FromTemplate is the name or UUID of a ready template.
	FromTemplate string      `json:"from_template,omitempty"`
	Steps        []BuildStep `json:"steps,omitempty"`
	// StartCmd is started when all steps are done, and its memory captured with it.
	StartCmd string `json:"start_cmd,omitempty"`
	// ReadyCmd is polled until it exits with 0; only then is the memory captured.
	ReadyCmd string `json:"ready_cmd,omitempty"`
}

// BuildStep is one step; exactly one field is set.
type BuildStep struct {
	// Run is a command for /bin/sh -c.
	Run string   `json:"run,omitempty"`
	Env *EnvStep `json:"env,omitempty"`
	// Workdir is where later steps and the sandboxes' commands start; relative to the one before.
	Workdir string    `json:"workdir,omitempty"`
	User    *UserStep `json:"user,omitempty"`
	Copy    *CopyStep `json:"copy,omitempty"`
}

// EnvStep sets a variable for later steps and for the sandboxes.
type EnvStep struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	// Expand has ${NAME} in Value replaced by the variable's value at this step, and $$ by a dollar sign (see Expand).
	Expand bool `json:"expand,omitempty"`
}

// UserStep changes who runs later steps and the sandboxes' commands. The user is made when there is none.
type UserStep struct {
	Name string `json:"name"`
	// Sudo lets the user run anything as root without a password.
	Sudo bool `json:"sudo,omitempty"`
}

// CopyStep copies files of an uploaded build context into the image.
type CopyStep struct {
	// Context is the digest of the tar, "sha256:…".
	Context string `json:"context"`
	// Src are paths in the context, without wildcards; "." is all of it. A directory's contents are copied, not itself.
	Src []string `json:"src"`
	// Dst is absolute or relative to the working directory. It is a directory when it ends in "/", when there are several
	// sources or one is a directory; otherwise the file's new name.
	Dst string `json:"dst"`
	// Chown is user[:group], names or numbers; "" is root.
	Chown string `json:"chown,omitempty"`
}

// UploadKind tells what was uploaded for builds.
type UploadKind string

// UploadContext is a build context, a plain tar of files; UploadImage an image as an OCI layout in a tar or what
// docker save writes.
const (
	UploadContext UploadKind = "context"
	UploadImage   UploadKind = "image"
)

// Upload is something that was sent for builds to use. It is kept while a build names it, and a while after the last
// time it was sent.
type Upload struct {
	TeamID    string
	Kind      UploadKind
	Digest    string // "sha256:" and 64 hex digits, of the bytes that were sent
	SizeBytes int64
	SentAt    time.Time
}

// uploadPrefix starts a From that names an upload.
const uploadPrefix = "upload:"

// FromUpload is the From that names an uploaded image.
func FromUpload(digest string) string { return uploadPrefix + digest }

// UploadedImage is the digest of the uploaded image the spec starts from; ok is false when it starts from another source.
func (s *BuildSpec) UploadedImage() (digest string, ok bool) {
	return strings.CutPrefix(s.From, uploadPrefix)
}

// Uploads lists what the spec needs to have been uploaded, each once; Kind and Digest are set.
func (s *BuildSpec) Uploads() []Upload {
	var all []Upload
	seen := map[Upload]bool{}
	add := func(u Upload) {
		if !seen[u] {
			seen[u] = true
			all = append(all, u)
		}
	}
	if digest, ok := s.UploadedImage(); ok {
		add(Upload{Kind: UploadImage, Digest: digest})
	}
	for _, step := range s.Steps {
		if step.Copy != nil {
			add(Upload{Kind: UploadContext, Digest: step.Copy.Context})
		}
	}
	return all
}

// Hash identifies the spec: SHA-256 in hex over its JSON. Two specs that differ only in empty fields are the same.
func (s *BuildSpec) Hash() string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and lists of them can't fail
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Expand replaces ${NAME} by a variable's value, "" when it is not set, and $$ by a dollar sign. Any other dollar sign
// stays. ok is false when the result would have more than limit bytes: a few variables that name each other several times
// can have any length.
func Expand(text string, env map[string]string, limit int) (expanded string, ok bool) {
	var out strings.Builder
	for out.Len() <= limit {
		before, rest, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String(), out.Len() <= limit
		}
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "{"), "}")
		switch {
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			text = rest[1:]
		case strings.HasPrefix(rest, "{") && closed && validEnvName(name):
			out.WriteString(env[name])
			text = after
		default:
			out.WriteByte('$')
			text = rest
		}
	}
	return "", false
}
