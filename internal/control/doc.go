// Package control holds the use cases of the control plane: it decides what a sandbox may do next, keeps that in the
// store, has the node do it, and closes the difference between the two after a crash.
package control
