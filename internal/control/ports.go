package control

import (
	"context"
	"net/netip"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// Store keeps the desired state. Its errors are *sandbox.Error with not_found, conflict or too_many_sandboxes where a
// caller branches, plain errors otherwise. Every method is one transaction. Implementations pass storetest.
type Store interface {
	// EnsureTeam returns the id of the team with this name, making it on first use.
	EnsureTeam(ctx context.Context, name string) (teamID string, err error)

	// InsertSandbox adds a sandbox in StateCreating. quota is the largest number of sandboxes its team may have, the new
	// one counted and those in StateDeleting not; above it too_many_sandboxes, decided in the same transaction (0: no quota).
	// With SourceSnapshotID set, the snapshot must exist in the team: else not_found.
	// With idem set, the key is remembered in the same transaction; when the team has used that key before, nothing is
	// inserted and the earlier use comes back.
	InsertSandbox(ctx context.Context, s *sandbox.Sandbox, quota int, idem *IdempotencyKey) (earlier *IdempotencyKey, err error)
	// IdempotencyKey reads an earlier use of a key by the team; not_found when there is none.
	IdempotencyKey(ctx context.Context, teamID, key string) (*IdempotencyKey, error)
	// Sandbox reads one, in any state and of any team.
	Sandbox(ctx context.Context, id string) (*sandbox.Sandbox, error)
	// ListSandboxes reads a page, newest first (created_at, then id, both descending), and how many match in all.
	ListSandboxes(ctx context.Context, f SandboxFilter) (page []*sandbox.Sandbox, total int, err error)
	// UpdateSandbox writes s if the stored generation is still s.Generation, and raises s.Generation: else conflict
	// (not_found when it is gone).
	UpdateSandbox(ctx context.Context, s *sandbox.Sandbox) error
	// CommitPause writes s (compare-and-swap as UpdateSandbox) and inserts snap in one transaction.
	CommitPause(ctx context.Context, s *sandbox.Sandbox, snap *sandbox.Snapshot) error
	// DeleteSandbox removes the row; no error when there is none.
	DeleteSandbox(ctx context.Context, id string) error
	// DueSandboxes lists at most limit sandboxes whose DueAt is at or before now and that are active, paused or failed,
	// the longest overdue first, with the earliest DueAt after now (nil: none).
	DueSandboxes(ctx context.Context, now time.Time, limit int) (due []*sandbox.Sandbox, next *time.Time, err error)
	// CountByState counts sandboxes of all teams, for metrics.
	CountByState(ctx context.Context) (map[sandbox.State]int, error)

	Snapshot(ctx context.Context, id string) (*sandbox.Snapshot, error)
	// UnusedSnapshots lists snapshots that nothing needs: no sandbox has it as SnapshotID, and none that has no snapshot
	// of its own yet has it as SourceSnapshotID.
	UnusedSnapshots(ctx context.Context) ([]*sandbox.Snapshot, error)
	// DeleteSnapshot removes the row if nothing needs it (as above): else conflict. No error when there is none.
	DeleteSnapshot(ctx context.Context, id string) error
	// SnapshotIDs lists all, so that files without a row can be found.
	SnapshotIDs(ctx context.Context) ([]string, error)

	// PutTemplate inserts or replaces a system template by id.
	PutTemplate(ctx context.Context, t *sandbox.Template) error
	Template(ctx context.Context, id string) (*sandbox.Template, error)
	// TemplateByName finds a name among the team's and the system's templates.
	TemplateByName(ctx context.Context, teamID, name string) (*sandbox.Template, error)
	ListTemplates(ctx context.Context, teamID, namePrefix string) ([]*sandbox.Template, error)
	// TemplateCheckpointIDs lists the CheckpointID of every template of every team that has one: those are snapshots on
	// the node too, and must not be taken for leftovers.
	TemplateCheckpointIDs(ctx context.Context) ([]string, error)
	BuildStore

	InsertAPIKey(ctx context.Context, k *APIKey) error
	// APIKeyByHash finds a key by the SHA-256 of its text, revoked and expired ones too.
	APIKeyByHash(ctx context.Context, hash [32]byte) (*APIKey, error)
	ListAPIKeys(ctx context.Context, teamID string) ([]*APIKey, error)
	// RevokeAPIKey finds by id or by unique prefix; revoking twice is no error.
	RevokeAPIKey(ctx context.Context, teamID, idOrPrefix string, at time.Time) (*APIKey, error)
	// TouchAPIKey notes the last use.
	TouchAPIKey(ctx context.Context, id string, at time.Time) error

	// NetworkLog reads a page of a sandbox's network log, newest first (by when it began, then by Number, both
	// descending), and whether there is more.
	NetworkLog(ctx context.Context, f NetworkLogFilter) (rows []*NetworkLogRow, more bool, err error)

	// ForgetIdempotencyKeys removes keys used before the given time.
	ForgetIdempotencyKeys(ctx context.Context, before time.Time) error
	// ReleaseIdempotencyKey forgets the key that made this sandbox, after a create that failed, so it can be tried again.
	ReleaseIdempotencyKey(ctx context.Context, sandboxID string) error

	// Setting reads a server-wide secret or marker, storing initial when there is none yet; concurrent callers agree.
	Setting(ctx context.Context, name string, initial []byte) ([]byte, error)
	Close() error
}

// SandboxFilter selects a page of a team's sandboxes.
type SandboxFilter struct {
	TeamID   string
	AllTeams bool // for the reconciler; TeamID is then ignored
	Metadata map[string]string
	// States that match; empty means the ones that clients can see.
	States        []sandbox.State
	Limit, Offset int // Limit 0: no limit
}

// IdempotencyKey is one use of an Idempotency-Key header.
type IdempotencyKey struct {
	TeamID    string
	Key       string
	BodyHash  [32]byte
	SandboxID string // or of the build that it made
	UsedAt    time.Time
}

// APIKey is a key as the store keeps it: never its text.
type APIKey struct {
	ID         string
	TeamID     string
	Name       string
	Prefix     string // the first 16 characters, to tell keys apart
	Hash       [32]byte
	CreatedAt  time.Time
	ExpiresAt  *time.Time
	RevokedAt  *time.Time
	LastUsedAt *time.Time
}

// Node runs sandboxes on a host. Calls for one sandbox are made one at a time, except Agent, ApplyNetwork and
// Destroy. Every call is idempotent enough to be made again after a crash.
type Node interface {
	// Start brings up a sandbox from its template or a snapshot and returns when commands can run in it. On error
	// nothing of it is left, and the template or snapshot is untouched.
	Start(ctx context.Context, spec StartSpec) error
	// Checkpoint freezes the sandbox, closes its network and commits a snapshot under snapshotID. The sandbox stays
	// frozen until Destroy (the pause is done) or Thaw. On error it is already thawed, as if nothing had been asked.
	Checkpoint(ctx context.Context, sandboxID, snapshotID string) (sizeBytes int64, err error)
	// Thaw opens a frozen sandbox again, with its network as it was.
	Thaw(ctx context.Context, sandboxID string) error
	// Destroy ends a sandbox and removes what it had on the host; no error when there is none.
	Destroy(ctx context.Context, sandboxID string) error
	// ApplyNetwork replaces a running sandbox's rules.
	ApplyNetwork(ctx context.Context, sandboxID string, policy sandbox.Policy) error
	// Agent says how to reach a running sandbox's agent; unavailable when it does not run here.
	Agent(ctx context.Context, sandboxID string) (Endpoint, error)
	// Running lists the sandboxes that exist on this host, frozen ones included.
	Running(ctx context.Context) ([]string, error)
	// DeleteSnapshot removes a snapshot's bytes; no error when there are none.
	DeleteSnapshot(ctx context.Context, snapshotID string) error
	// SnapshotIDs lists the committed snapshots on this host.
	SnapshotIDs(ctx context.Context) ([]string, error)
	// Exits delivers sandboxes that ended without being asked to. By then Running no longer names that run, so that old
	// news of a sandbox that has been started again can be told.
	Exits() <-chan Exit
}

// StartSpec is what a node needs to bring up a sandbox.
type StartSpec struct {
	SandboxID string
	Hostname  string
	Resources sandbox.Resources
	// CheckpointID is the snapshot to restore: the template's, or the sandbox's own or source snapshot.
	CheckpointID string
	// FromTemplate: CheckpointID is a template's, so a warm instance may be taken.
	FromTemplate  bool
	Env           map[string]string // template's and sandbox's, merged
	User, Workdir string
	Policy        sandbox.Policy
}

// Endpoint is where an agent listens and what it must be shown.
type Endpoint struct {
	Addr   netip.AddrPort
	Secret string
	// Gone is closed when the sandbox stops running at Addr (paused, deleted, ended). Its network vanishes with it, so
	// open connections would hang rather than break: whoever holds one ends it then. May be nil.
	Gone <-chan struct{}
}

// Exit is a sandbox that ended by itself; Reason is for people.
type Exit struct {
	SandboxID string
	Reason    string
}
