// Package edge is the way from a client to the agent in its sandbox: it finds out which sandbox a data-plane call is
// for, has the access token checked, and passes HTTP and WebSocket through in both directions without keeping them in
// memory.
//
// Of a request only the path, the query, the body and a short list of headers reach the agent; of an answer only the
// status, the body and a short list of headers reach the client. The agent is taken for hostile: the code in a sandbox
// can replace it.
package edge
