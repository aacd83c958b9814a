// Package guestapi is the wire between the host and boxd, the agent inside a sandbox.
//
// boxd is an HTTP/1.1 server on Port of the sandbox's address. It serves the data plane itself (wire section 3): the
// edge checks the client's access token, replaces it by SecretHeader and passes the rest through unchanged. Calls
// below HostPrefix are for the host alone; the edge never forwards them.
//
// Nothing that comes back from an agent can be trusted: code in the sandbox is root there and can replace boxd. The
// host bounds the time and the size of every answer it reads itself.
package guestapi

// Port is the TCP port boxd listens on, on all addresses of the sandbox.
const Port = 49160

// SecretHeader carries the sandbox's agent secret; boxd answers 401 without the right one. It keeps processes in the
// sandbox that are not root from using boxd to become root.
const SecretHeader = "X-Boxd-Secret"

// SecretEnv is boxd's environment variable with the secret that holds until the first Init.
const SecretEnv = "BOXD_SECRET"

// The host's own calls.
const (
	// HostPrefix is the path prefix of the calls that are the host's alone.
	HostPrefix = "/_host/"
	// HealthPath: GET, answers Health once boxd serves.
	HealthPath = HostPrefix + "health"
	// InitPath: POST Init, answers 204. Gives a restored sandbox its identity; may be called again.
	InitPath = HostPrefix + "init"
	// RelievePath: POST with the query MemoryParam, answers Relief. Kills the process with the most resident memory, boxd
	// excepted.
	RelievePath = HostPrefix + "relieve"
	// ExportPath: GET with the query path, answers the tree there as a tar of application/x-tar: regular files,
	// directories, links, devices and FIFOs with owners, modes, times and extended attributes, names without the leading
	// slash. What is mounted below is left out but for its mount point. An error on the way breaks the connection off.
	// With KeptParam, a file that is as it was in the image comes without its contents and attributes, of size 0 and with
	// the PAX record KeptRecord; only for runtimes where a file's device number tells.
	ExportPath = HostPrefix + "export"
	// UnpackPath: POST a tar with the queries path and OwnerParam, answers FileWritten. As POST /files with format=tar, but
	// everything made belongs to the given owner. An empty body is an empty tar: only the directory is made then.
	UnpackPath = HostPrefix + "unpack"
	// RunPath: POST ExecRequest, answers the events of POST /exec/stream. Here user may also be "user:group", and a number
	// that is in no file of the sandbox.
	RunPath = HostPrefix + "run"
	// StartPath: POST ExecRequest, answers the events of POST /exec/stream, but the command is a session (wire section 3):
	// it has no timeout unless one is named and goes on when the host stops listening.
	StartPath = HostPrefix + "start"
)

// KeptParam is set to anything, and KeptRecord a PAX record that is set to anything, as ExportPath says.
const (
	KeptParam  = "kept"
	KeptRecord = "SUPERSERVE.kept"
)

// OwnerParam is "user" or "user:group", names or numbers, in the query of UnpackPath; absent: root.
const OwnerParam = "owner"

// MemoryParam is the sandbox's memory in MiB, in the query of RelievePath: when its processes have less than half of it
// together, none is killed, since then the memory is already being freed. Absent: no such bound.
const MemoryParam = "memory_mib"

// Health is the answer of HealthPath.
type Health struct {
	Version string `json:"version"` // boxd's version, for the log
	PID     int    `json:"pid"`
}

// Init gives a sandbox its identity: after it, only Secret is accepted, the host name is Hostname, and commands run
// with the defaults given here.
type Init struct {
	Secret   string            `json:"secret"`
	Hostname string            `json:"hostname"`
	Env      map[string]string `json:"env,omitempty"` // template's and sandbox's, already merged
	User     string            `json:"user,omitempty"`
	Workdir  string            `json:"workdir,omitempty"`
	// MaxProcesses is how many processes and threads commands may have at once, where MaxProcessesEnv set a limit; 0 keeps
	// what held.
	MaxProcesses int `json:"max_processes,omitempty"`
}

// Relief says which process was killed to free memory or process ids; PID 0 when there was none to kill.
type Relief struct {
	PID     int    `json:"pid"` // by=processes: the leader of the largest session, which may have ended long ago
	Command string `json:"command"`
	RSSKiB  int64  `json:"rss_kib"` // 0 with by=processes
}

// ExecRequest is the body of POST /exec and /exec/stream (wire section 3).
type ExecRequest struct {
	Command    string            `json:"command"`
	Args       []string          `json:"args,omitempty"` // nil: /bin/sh -c Command
	Env        map[string]string `json:"env,omitempty"`
	WorkingDir string            `json:"working_dir,omitempty"`
	User       string            `json:"user,omitempty"`
	TimeoutS   *float64          `json:"timeout_s,omitempty"` // seconds; nil means DefaultTimeoutS
}

// DefaultTimeoutS is the timeout of a command that names none, in seconds; MaxTimeoutS the longest one.
const (
	DefaultTimeoutS = 30
	MaxTimeoutS     = 604800
)

// ExecResult is the answer of POST /exec.
type ExecResult struct {
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	ExitCode  int    `json:"exit_code"`
	Truncated bool   `json:"truncated,omitempty"`
}

// MaxStream is how much of each stream /exec keeps: 4 MiB, head and tail.
const MaxStream = 4 << 20

// ExecEvent is one data line of /exec/stream.
type ExecEvent struct {
	Timestamp string `json:"timestamp"` // RFC 3339 UTC, milliseconds
	Stdout    string `json:"stdout,omitempty"`
	Stderr    string `json:"stderr,omitempty"`
	ExitCode  *int   `json:"exit_code,omitempty"`
	Error     string `json:"error,omitempty"`
	Code      string `json:"code,omitempty"`
	Finished  bool   `json:"finished,omitempty"`
}

// MaxPath is the longest file path, in bytes.
const MaxPath = 4096

// FileInfo describes one file, in /files/list and /files/stat.
type FileInfo struct {
	Name       string `json:"name"`
	Path       string `json:"path"`
	Type       string `json:"type"` // file, directory, symlink or other
	Size       int64  `json:"size"`
	Mode       string `json:"mode"` // four octal digits, such as 0644
	ModifiedAt string `json:"modified_at"`
}

// FileList is the answer of /files/list.
type FileList struct {
	Entries []FileInfo `json:"entries"`
}

// FileWritten is the answer of POST /files.
type FileWritten struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// ErrorBody is the shape of every error on both planes.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is the inside of ErrorBody.
type ErrorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// MaxProcessesEnv is boxd's environment variable with the number of processes and threads that commands may have at
// once; unset means no limit.
const MaxProcessesEnv = "BOXD_MAX_PROCESSES"
