// Package templates holds the definitions of the system templates, superserve/…, as YAML files; package image parses
// them.
package templates

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml
var files embed.FS

// Files is the directory of definitions, one *.yaml for each template.
func Files() fs.FS { return files }
