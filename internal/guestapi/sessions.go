package guestapi

// The subprotocols of the live calls.
const (
	ExecProtocol     = "superserve.exec.v1"     // GET /exec/connect
	TerminalProtocol = "superserve.terminal.v1" // GET /terminal
)

// The first byte of a binary message of ExecProtocol.
const (
	ChannelStdin  = 0
	ChannelStdout = 1
	ChannelStderr = 2
)

const (
	// MaxMessage is the longest message a client may send, in bytes, the channel's byte included.
	MaxMessage = 1 << 20
	// MaxReplay is how much of each of a session's streams is kept for clients that attach later, in bytes.
	MaxReplay = 1 << 20
	// MaxWindow is the largest number of columns or rows of a terminal.
	MaxWindow = 1000
	// CloseErrorBase plus an HTTP status is the close code of an error; the reason is "<code>: <message>".
	CloseErrorBase = 4000
)

// WindowSize is the size of a terminal in characters, 1 to MaxWindow each.
type WindowSize struct {
	Cols int `json:"cols"`
	Rows int `json:"rows"`
}

// Connect is the first message of ExecProtocol: a command to start, or a session to attach to. Without timeout_s a
// command may run for ever.
type Connect struct {
	ExecRequest
	Terminal *WindowSize `json:"terminal,omitempty"` // run the command on a terminal of its own
	Attach   *string     `json:"attach,omitempty"`   // session id
	Offset   int64       `json:"offset,omitempty"`   // of an attach; bytes of output, both streams together
}

// Opened is the server's first message.
type Opened struct {
	SessionID string `json:"session_id"`
	PID       int    `json:"pid"` // 0: the command could not be started
	Terminal  bool   `json:"terminal,omitempty"`
}

// The types of Control.
const (
	ControlStdinClose = "stdin_close"
	ControlSignal     = "signal"
	ControlResize     = "resize"
)

// Control is a client's text message after the first one.
type Control struct {
	Type string `json:"type"`
	Name string `json:"name,omitempty"` // of a signal: SIGINT and so on
	WindowSize
}

// Truncated tells a client that Bytes of output before Offset are no longer kept.
type Truncated struct {
	Type   string `json:"type"` // "truncated"
	Bytes  int64  `json:"bytes"`
	Offset int64  `json:"offset"`
}

// Exited is the server's last message.
type Exited struct {
	ExitCode int  `json:"exit_code"`
	Finished bool `json:"finished"`
}

// Session is one entry of GET /exec/sessions.
type Session struct {
	SessionID string `json:"session_id"`
	Command   string `json:"command"` // for people: with its arguments, cut to 1 KiB
	PID       int    `json:"pid"`
	StartedAt string `json:"started_at"`          // RFC 3339 UTC, milliseconds
	ExitCode  *int   `json:"exit_code,omitempty"` // nil while it runs
	Terminal  bool   `json:"terminal,omitempty"`
}

// WatchEvent is one data line of GET /files/watch.
type WatchEvent struct {
	Event string `json:"event"`          // create, write, remove, rename or overflow
	Path  string `json:"path,omitempty"` // of rename: the old one; absent with overflow
}
