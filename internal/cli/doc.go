// Package cli is the superserve program: its commands, and the wiring of the server. It is the only package that may
// import every other one, and nothing imports it but cmd/superserve.
//
// Commands write results to standard output and everything else to standard error. They exit with 0, with 1 and one
// line that says how to mend it, with 2 for a wrong command line, or, for exec, shell and attach, with the
// command's own code.
package cli
