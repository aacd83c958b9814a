package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

const (
	// networkPage is how many rows are asked for at once, the most there are.
	networkPage = 200
	// networkPoll is how often --follow looks for new rows.
	networkPoll = time.Second
	// defaultNetworkRows is how many are shown.
	defaultNetworkRows = 50
)

// networkFlags are the flags of sandbox network.
type networkFlags struct {
	verdict, since  string
	limit           int
	follow, suggest bool
}

func (a *App) sandboxNetworkCommand() *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "network ID",
		Short: "Show what a sandbox reached or tried to reach",
		Long: `Print the network log, the newest row last: connections, UDP and ICMP flows, DNS queries and what was
blocked, each with the rule that decided. A row that stands for more than one attempt says so under COUNT. A paused
sandbox is not woken.

--suggest prints the fewest allow_out entries that cover what was seen: names rather than addresses, a wildcard where
three or more names have a parent in common that is no public suffix such as com or github.io, and networks only where
every address in them was reached. What was blocked is left out unless --verdict asks for it. With --json it is what the
network field of a sandbox takes.`,
		Example: `  superserve sandbox network ID --since 1h --verdict blocked
  superserve sandbox network ID --follow
  superserve sandbox network ID --suggest --json`,
		Args: operands,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := f.options(cmd, time.Now())
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.network(cmd.Context(), c, args[0], opts, f)
		},
	}
	fl := cmd.Flags()
	fl.BoolVarP(&f.follow, "follow", "f", false, "go on and print new rows as they come")
	fl.BoolVar(&f.suggest, "suggest", false, "print the allow_out entries that cover what was seen")
	fl.StringVar(&f.verdict, "verdict", "", "only allowed, blocked or failed")
	fl.StringVar(&f.since, "since", "", "only what began since, as a length of time such as 1h or a time such as 2026-01-02T15:04:05Z")
	fl.IntVar(&f.limit, "limit", 0, "only the newest so many rows (default 50, with --suggest all)")
	return cmd
}

// options checks the flags. Limit of the options stays empty: it is the page's, not the command's.
func (f *networkFlags) options(cmd *cobra.Command, now time.Time) (client.NetworkLogOptions, error) {
	o := client.NetworkLogOptions{Verdict: client.NetworkVerdict(f.verdict)}
	switch {
	case f.suggest && f.follow:
		return o, usagef("--suggest looks at what is there; it can't --follow")
	case f.verdict != "" && !o.Verdict.Valid():
		return o, usagef("--verdict must be allowed, blocked or failed; got %q", f.verdict)
	case cmd.Flags().Changed("limit") && f.limit < 1:
		return o, usagef("--limit must be at least 1; got %d", f.limit)
	case f.limit == 0 && !f.suggest:
		f.limit = defaultNetworkRows
	}
	if f.since == "" {
		return o, nil
	}
	at, err := time.Parse(time.RFC3339, f.since)
	if err != nil {
		span, err := parseSpan("since", f.since)
		if err != nil {
			return o, usagef("--since must be a length of time such as 1h or a time such as 2026-01-02T15:04:05Z; got %q", f.since)
		}
		at = now.Add(-span)
	}
	o.Since = at.UTC().Format(time.RFC3339Nano)
	return o, nil
}

func (a *App) network(ctx context.Context, c *client.Client, id string, o client.NetworkLogOptions, f networkFlags) error {
	rows, more, err := networkRows(ctx, c, id, o, f.limit)
	if err != nil {
		return err
	}
	switch {
	case f.suggest:
		return a.printSuggestion(suggest(rows, o.Verdict))
	case a.json && !f.follow:
		return a.printJSON(rows)
	}
	out := networkPrinter{app: a}
	if err := out.print(rows); err != nil || f.follow {
		return errors.Join(err, a.followNetwork(ctx, c, id, o, rows, out))
	}
	if more {
		fmt.Fprintf(a.Err, "there are more; --limit %d shows more of them\n", 2*len(rows))
	}
	return nil
}

// networkRows reads the newest rows, all when limit is 0, and puts the oldest first.
func networkRows(ctx context.Context, c *client.Client, id string, o client.NetworkLogOptions, limit int) (rows []client.NetworkLogRow, more bool, err error) {
	rows = []client.NetworkLogRow{}
	for {
		o.Limit = networkPage
		if limit > 0 {
			o.Limit = min(networkPage, limit-len(rows))
		}
		page, err := c.NetworkLog(ctx, id, o)
		if err != nil {
			return nil, false, err
		}
		rows = append(rows, page.Data...)
		if !page.HasMore || len(rows) == limit {
			slices.Reverse(rows)
			return rows, page.HasMore, nil
		}
		o.Before = page.NextCursor
	}
}

// followNetwork prints what comes after rows, until the sandbox is deleted.
func (a *App) followNetwork(ctx context.Context, c *client.Client, id string, o client.NetworkLogOptions, rows []client.NetworkLogRow, out networkPrinter) error {
	var latest int64
	for {
		for _, r := range rows {
			latest = max(latest, r.ID)
		}
		if latest > 0 {
			o.Since = strconv.FormatInt(latest, 10)
		}
		select {
		case <-time.After(networkPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
		var err error
		rows, _, err = networkRows(ctx, c, id, o, 0)
		if client.IsNotFound(err) {
			fmt.Fprintf(a.Err, "sandbox %s has been deleted\n", printable(id))
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.print(rows); err != nil {
			return err
		}
	}
}

// networkPrinter prints rows in columns of a fixed width, so that those that come later stand below the others.
type networkPrinter struct {
	app    *App
	headed bool
}

const networkLine = "%-20s  %-7s  %-5s  %-30s  %-21s  %9s  %9s  %7s  %s"

func (p *networkPrinter) print(rows []client.NetworkLogRow) error {
	if p.app.json {
		lines := json.NewEncoder(p.app.Out)
		lines.SetEscapeHTML(false)
		for _, r := range rows {
			if err := lines.Encode(withMillis(r)); err != nil {
				return err
			}
		}
		return nil
	}
	if !p.headed {
		p.headed = true
		if err := p.line("TIME", "VERDICT", "PROTO", "HOST", "ADDRESS", "SENT", "RECEIVED", "COUNT", "RULE"); err != nil {
			return err
		}
	}
	for _, r := range rows {
		err := p.line(r.TS.UTC().Format("2006-01-02 15:04:05Z"), string(r.Verdict), r.Protocol, orDash(r.Host), orDash(addressOf(r)),
			shownBytes(r.BytesSent), shownBytes(r.BytesRecv), shownCount(r.Count), r.MatchRule)
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *networkPrinter) line(cells ...string) error {
	safe := make([]any, len(cells))
	for i, c := range cells {
		safe[i] = printable(c)
	}
	_, err := fmt.Fprintln(p.app.Out, strings.TrimRight(fmt.Sprintf(networkLine, safe...), " "))
	return err
}

func addressOf(r client.NetworkLogRow) string {
	if r.DstPort == 0 {
		return r.DstIP
	}
	return net.JoinHostPort(r.DstIP, strconv.Itoa(r.DstPort))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// shownBytes is a size in a table; "-" while it is not known.
func shownBytes(n *int64) string {
	if n == nil {
		return "-"
	}
	if *n < 1<<10 {
		return fmt.Sprintf("%d B", *n)
	}
	value, unit := float64(*n)/(1<<10), 0
	for value >= 1024 && unit < 3 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, [...]string{"KiB", "MiB", "GiB", "TiB"}[unit])
}

func shownCount(n *int64) string {
	if n == nil {
		return "1"
	}
	return strconv.FormatInt(*n, 10)
}
