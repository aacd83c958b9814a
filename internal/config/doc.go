// Package config is the settings of the server: one struct, whose tags say each setting's name, default, meaning,
// unit, limits and danger. Flags, environment variables, the TOML file and docs/configuration.md all come from it, so
// they cannot drift apart.
//
// Later sources win: default, TOML file, SUPERSERVE_* variable, flag. A setting has one name everywhere: data-dir is
// the flag --data-dir, the TOML key data-dir and the variable SUPERSERVE_DATA_DIR.
package config
