// Package httpapi is the server's main listener: the control plane over a generated strict server with thin handlers,
// and the way to the data plane by host name, header or path.
//
// This is the one place where errors become HTTP answers (WriteError), where credentials of the control plane are
// checked, and where requests get their ids.
package httpapi
