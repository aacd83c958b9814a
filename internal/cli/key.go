package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/store"
)

const (
	defaultTeam = "default"
	maxKeyName  = 64 // characters
)

// keyCommand works on the database itself, not through a server: whoever may open it may make keys.
func (a *App) keyCommand() *cobra.Command {
	parent := group(&cobra.Command{
		Use: "key", Short: "Create, list and revoke API keys, on the server's own machine",
		Long: `Create, list and revoke API keys. These commands open the server's database, so they run on its machine with
its --data-dir or --database; the server may be running. A change holds at once.`,
	})
	parent.AddCommand(a.keyCreateCommand(), a.keyListCommand(), a.keyRevokeCommand())
	return parent
}

// withTeam runs do with the store and the team of --team, whose id find gives: (*store.Store).EnsureTeam makes it when
// there is none, (*store.Store).Team does not, so that a slip of the pen is noticed.
func (a *App) withTeam(cmd *cobra.Command, team string, find func(*store.Store, context.Context, string) (string, error),
	do func(ctx context.Context, st *store.Store, teamID string) error) (err error) {
	cfg, _, err := a.settings(cmd)
	if err != nil {
		return err
	}
	url := cfg.DatabaseURL()
	if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
		// Opening would make an empty database in a directory that no server uses.
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("there is no database %s; start the server once, or name its --data-dir", path)
		}
	}
	ctx := cmd.Context()
	st, err := store.Open(ctx, url)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	teamID, err := find(st, ctx, team)
	if sandbox.CodeOf(err) == sandbox.CodeNotFound {
		return fmt.Errorf("there is no team %q; superserve key create --team %s makes it, with a key", team, team)
	}
	if err != nil {
		return fmt.Errorf("finding the team %q: %w", team, err)
	}
	return do(ctx, st, teamID)
}

func keyFlags(cmd *cobra.Command, team *string) *cobra.Command {
	bindSettings(cmd, "data-dir", "database")
	cmd.Flags().StringVar(team, "team", defaultTeam, "team the key belongs to")
	return cmd
}

func (a *App) keyCreateCommand() *cobra.Command {
	var team, name, expires string
	cmd := &cobra.Command{
		Use: "create", Short: "Create a key and print it, once: only its hash is kept", Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key := control.GenerateAPIKey()
			row, err := newKeyRow(name, key, expires, time.Now())
			if err != nil {
				return err
			}
			return a.withTeam(cmd, team, (*store.Store).EnsureTeam, func(ctx context.Context, st *store.Store, teamID string) error {
				row.TeamID = teamID
				if err := st.InsertAPIKey(ctx, row); err != nil {
					return fmt.Errorf("storing the key: %w", err)
				}
				return a.printNewKey(row, key)
			})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "what the key is for, to tell keys apart, at most 64 characters")
	cmd.Flags().StringVar(&expires, "expires", "", "when it stops working, such as 30d or 12h from now (default never)")
	return keyFlags(cmd, &team)
}

func (a *App) printNewKey(row *control.APIKey, key string) error {
	if a.json {
		out := keyJSON(row)
		out.Key = key
		return a.printJSON(out)
	}
	expires := "never expires"
	if row.ExpiresAt != nil {
		expires = "expires " + shownTime(row.ExpiresAt)
	}
	fmt.Fprintf(a.Err, "created key %s, %s; this is the only time it is shown:\n", row.ID, expires)
	_, err := fmt.Fprintln(a.Out, key)
	return err
}

// newKeyRow is what the store keeps of a key; the team is still to be set. expires is a span from now, "" for never.
func newKeyRow(name, key, expires string, now time.Time) (*control.APIKey, error) {
	if utf8.RuneCountInString(name) > maxKeyName || printable(name) != name {
		return nil, usagef("--name must be at most %d printable characters", maxKeyName)
	}
	if expires == "" {
		return control.NewAPIKey("", name, key, now, nil), nil
	}
	span, err := parseSpan("expires", expires)
	if err != nil {
		return nil, err
	}
	if span == 0 {
		return nil, usagef("--expires must be more than 0s")
	}
	return control.NewAPIKey("", name, key, now, new(now.Add(span))), nil
}

func (a *App) keyListCommand() *cobra.Command {
	var team string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List keys, without their text", Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTeam(cmd, team, (*store.Store).Team, func(ctx context.Context, st *store.Store, teamID string) error {
				keys, err := st.ListAPIKeys(ctx, teamID)
				if err != nil {
					return fmt.Errorf("reading the keys: %w", err)
				}
				return a.printKeys(keys, time.Now())
			})
		},
	}
	return keyFlags(cmd, &team)
}

func (a *App) printKeys(keys []*control.APIKey, now time.Time) error {
	if a.json {
		out := make([]keyOutput, 0, len(keys))
		for _, k := range keys {
			out = append(out, keyJSON(k))
		}
		return a.printJSON(out)
	}
	rows := make([][]string, 0, len(keys))
	for _, k := range keys {
		rows = append(rows, []string{
			k.ID, k.Name, k.Prefix + "…", keyStatus(k, now), shownTime(&k.CreatedAt), shownTime(k.ExpiresAt), shownTime(k.LastUsedAt),
		})
	}
	return a.table([]string{"ID", "NAME", "KEY", "STATUS", "CREATED", "EXPIRES", "LAST USED"}, rows)
}

func keyStatus(k *control.APIKey, now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.Expired(now):
		return "expired"
	}
	return "valid"
}

func (a *App) keyRevokeCommand() *cobra.Command {
	var team string
	cmd := &cobra.Command{
		Use: "revoke ID|PREFIX", Short: "Stop a key from working", Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withTeam(cmd, team, (*store.Store).Team, func(ctx context.Context, st *store.Store, teamID string) error {
				k, err := st.RevokeAPIKey(ctx, teamID, strings.TrimSuffix(args[0], "…"), time.Now())
				if sandbox.CodeOf(err) == sandbox.CodeNotFound {
					return fmt.Errorf("team %q has no key %q; superserve key list shows its keys", team, args[0])
				}
				if err != nil {
					return err // which says what was being done
				}
				if a.json {
					return a.printJSON(keyJSON(k))
				}
				_, err = fmt.Fprintf(a.Out, "revoked %s (%s…)\n", k.ID, k.Prefix)
				return err
			})
		},
	}
	return keyFlags(cmd, &team)
}

// keyOutput is a key in --json.
type keyOutput struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Prefix     string     `json:"prefix"`
	Key        string     `json:"key,omitempty"` // only when it was just made
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	RevokedAt  *time.Time `json:"revoked_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
}

func keyJSON(k *control.APIKey) keyOutput {
	return keyOutput{
		ID: k.ID, Name: k.Name, Prefix: k.Prefix, CreatedAt: k.CreatedAt,
		ExpiresAt: k.ExpiresAt, RevokedAt: k.RevokedAt, LastUsedAt: k.LastUsedAt,
	}
}

// ensureFirstKey gives the default team its first key: the operator's, else the one kept in the data directory, else a
// new one. It returns the key when it was generated now, "" otherwise. Every step can be repeated after a crash: the
// file is written before the row, and a team that has a key, even a revoked one, is left alone.
func ensureFirstKey(ctx context.Context, st control.Store, dataDir, given string, now time.Time) (generated string, err error) {
	teamID, err := st.EnsureTeam(ctx, defaultTeam)
	if err != nil {
		return "", fmt.Errorf("making the default team: %w", err)
	}
	keys, err := st.ListAPIKeys(ctx, teamID)
	if err != nil || len(keys) > 0 {
		return "", err
	}
	key, name := given, "bootstrap"
	if key == "" {
		name = "first start"
		if key, err = readKeyFile(dataDir); err != nil {
			return "", err
		}
	}
	if key == "" {
		key = control.GenerateAPIKey()
		generated = key
		if err := writeKeyFile(dataDir, key); err != nil {
			return "", err
		}
	}
	row, err := newKeyRow(name, key, "", now)
	if err != nil {
		return "", err
	}
	row.TeamID = teamID
	if err := st.InsertAPIKey(ctx, row); err != nil {
		return "", fmt.Errorf("storing the first API key: %w", err)
	}
	return generated, nil
}
