package config

import (
	"fmt"
	"strings"
)

// Reference is docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Settings of the server

<!-- Generated from internal/config/config.go by "make generate". Do not edit. -->

Every setting has one name. ` + "`data-dir`" + ` is the flag ` + "`--data-dir`" + `, the key ` + "`data-dir`" + ` in the TOML file and the
variable ` + "`SUPERSERVE_DATA_DIR`" + `. A later source wins: default, file, variable, flag. The file is the one ` +
		"`--config`" + `
names, else ` + "`" + DefaultFile + "`" + ` if it exists; a key in it that is not a setting is an error. Lists are written with
brackets in TOML and with commas elsewhere. A wrong value stops the server and says which source gave it.

| setting | default | what it does |
|---|---|---|
`)
	for _, s := range Settings() {
		first, _, _ := strings.Cut(s.Help, ". ")
		fmt.Fprintf(&b, "| [`%s`](#%s) | %s | %s. |\n", s.Key, s.Key, shownDefault(s), escape(strings.TrimSuffix(first, ".")))
	}
	for _, s := range Settings() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", s.Key, escape(s.Help))
		fmt.Fprintf(&b, "- Type: %s; %s\n- Default: %s\n- Variable: `%s`\n", s.Type, s.Limits(), shownDefault(s), s.Env)
		if s.EnvOnly {
			b.WriteString("- No flag and no TOML key: it is a secret.\n")
		}
		if s.Danger != "" {
			fmt.Fprintf(&b, "- **Danger:** %s\n", escape(s.Danger))
		}
	}
	return b.String()
}

func shownDefault(s Setting) string {
	if s.Default == "" {
		return "empty"
	}
	return "`" + s.Default + "`"
}

// escape keeps <…> from being read as HTML.
func escape(text string) string { return strings.ReplaceAll(text, "<", `\<`) }
