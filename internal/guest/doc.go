// Package guest is boxd, the agent inside a sandbox: it runs commands and serves files (wire section 3) and takes the
// host's own calls (package guestapi).
//
// boxd is process 1. It adopts and reaps every orphan, ignores the signals that would end it, and keeps running
// whatever its handlers meet. Commands outlive the connection that started them, because a pause cuts connections and
// must not end processes; only their own timeout ends them.
//
// All calls need the secret in guestapi.SecretHeader. The secret keeps processes in the sandbox that are not root from
// becoming root through boxd; it is no protection against root, which can replace boxd anyway.
//
// A live session (GET /exec/connect, GET /terminal) is a command, a bounded log of its output and whoever is attached:
// each client follows the log at its own offset, and the log makes the command wait rather than drop what a client has
// not been sent. api/openapi.yaml has the protocol.
//
// The package imports guestapi, the standard library, golang.org/x/sys and github.com/coder/websocket only, and builds
// without cgo.
package guest
