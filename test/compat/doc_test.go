// Package compat runs the published clients of the hosted service, unmodified, against a server of ours: the npm package
// @superserve/sdk and the PyPI package superserve. They send data-plane calls to sandbox.superserve.ai and names below it
// whatever their base URL, so they run in a network of their own in which these names are the server, and trust the
// server's own certificate authority. docs/existing-clients.md tells operators how to do the same. Needs root, Node and
// Python, and the two package registries.
package compat
