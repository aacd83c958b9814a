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
// The package imports guestapi, the standard library and golang.org/x/sys only, and builds without cgo.
package guest
