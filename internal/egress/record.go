package egress

import (
	"strings"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
)

// maxHost is the longest name of a row; longer ones are no host names.
const maxHost = 253

// row begins a row of the network log.
func row(sandboxID string, protocol sandbox.Protocol, began time.Time) sandbox.NetworkLogEntry {
	return sandbox.NetworkLogEntry{
		ID: sandbox.NewID(), SandboxID: sandboxID, Kind: sandbox.LogConnection, Time: began, Protocol: protocol, Count: 1,
	}
}

// record hands a row over, unless it is not known whose it is.
func (e *Engine) record(entry sandbox.NetworkLogEntry) {
	if entry.SandboxID == "" {
		return
	}
	if len(entry.Host) > maxHost {
		entry.Host = entry.Host[:maxHost]
	}
	e.cfg.Recorder.Record(entry)
}

// verdictOf is the verdict of something that was decided and then done.
func verdictOf(d sandbox.Decision) sandbox.NetworkVerdict {
	if d.Allowed {
		return sandbox.VerdictAllowed
	}
	return sandbox.VerdictBlocked
}

// hostOf is a name of DNS as the log has it.
func hostOf(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// firstOf is the name a flow is logged under when it does not say one itself.
func firstOf(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}
