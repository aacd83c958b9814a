// Package sandbox is the domain: what a sandbox, a template, a snapshot and a network policy are, which states a
// sandbox goes through, and which input is valid.
//
// It knows nothing of HTTP, SQL or a runtime and imports only the standard library; every other package speaks its
// types. Units are in the names: MiB is 2^20 bytes, seconds are whole seconds.
package sandbox
