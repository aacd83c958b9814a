// Package api holds the public description of the HTTP interface, openapi.yaml, which is the source of the server's and
// the client's types.
package api

import _ "embed"

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config server.cfg.yaml openapi.yaml
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config client.cfg.yaml openapi.yaml

//go:embed openapi.yaml
var spec string

// Spec returns openapi.yaml (OpenAPI 3.0.3).
func Spec() []byte { return []byte(spec) }
