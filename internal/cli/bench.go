package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/client"
)

func (a *App) benchCommand() *cobra.Command {
	n := 20
	var sdk bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure create, first exec, pause, resume and memory per sandbox",
		Long: `Create sandboxes one after another, run a first command in each, then pause, resume and delete them all, and
print how long each took. Memory per idle sandbox is read from this machine's MemAvailable, so it means something only
on the server's own machine with nothing else going on.

With --sdk it measures the Go client instead, against net/http alone on the same calls in turn: a command that does
nothing, and 100 MiB up and down.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 || n > 1000 {
				return usagef("-n must be 1-1000")
			}
			c, err := a.localClient(cmd)
			if err != nil {
				return err
			}
			if sdk {
				return a.benchSDK(cmd.Context(), c, n)
			}
			return a.bench(cmd.Context(), c, n)
		},
	}
	bindSettings(cmd, "data-dir")
	cmd.Flags().IntVarP(&n, "count", "n", n, "how many sandboxes; with --sdk how many commands")
	cmd.Flags().BoolVar(&sdk, "sdk", false, "measure the Go client")
	return cmd
}

// measurement is how long the runs of one operation took.
type measurement struct {
	Operation string  `json:"operation"`
	Count     int     `json:"count"`
	Median    float64 `json:"median_ms"`
	P95       float64 `json:"p95_ms"`
	Max       float64 `json:"max_ms"`
}

func (a *App) bench(ctx context.Context, c *client.Client, n int) (err error) {
	var ids []string
	defer func() {
		for _, id := range ids {
			err = errors.Join(err, c.DeleteSandbox(context.WithoutCancel(ctx), id))
		}
	}()
	before := memAvailable()
	creates, err := timed("create", n, func(int) error {
		sb, err := c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "bench"})
		if err == nil {
			ids = append(ids, sb.ID)
		}
		return err
	})
	if err != nil {
		return err
	}
	perSandbox := (before - memAvailable()) / int64(n)
	all := []measurement{creates}
	for _, op := range []struct {
		name string
		do   func(id string) error
	}{
		{"first exec", func(id string) error { return execTrue(ctx, c, id) }},
		{"exec", func(id string) error { return execTrue(ctx, c, id) }},
		{"pause", func(id string) error { return c.PauseSandbox(ctx, id) }},
		{"resume", func(id string) error {
			_, err := c.ResumeSandbox(ctx, id)
			return err
		}},
	} {
		m, err := timed(op.name, n, func(i int) error { return op.do(ids[i]) })
		if err != nil {
			return err
		}
		all = append(all, m)
	}
	return a.printBench(all, perSandbox)
}

func execTrue(ctx context.Context, c *client.Client, id string) error {
	res, err := c.Exec(ctx, id, client.ExecRequest{Command: "true"})
	if err == nil && res.ExitCode != 0 {
		err = fmt.Errorf("true exited with %d", res.ExitCode)
	}
	return err
}

func (a *App) printBench(all []measurement, perSandbox int64) error {
	if a.json {
		return a.printJSON(map[string]any{"operations": all, "memory_per_sandbox_bytes": perSandbox})
	}
	rows := make([][]string, 0, len(all))
	for _, m := range all {
		rows = append(rows, []string{
			m.Operation, fmt.Sprint(m.Count), fmt.Sprintf("%.0f ms", m.Median), fmt.Sprintf("%.0f ms", m.P95),
			fmt.Sprintf("%.0f ms", m.Max),
		})
	}
	if err := a.table([]string{"OPERATION", "COUNT", "MEDIAN", "P95", "MAX"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.Out, "memory per idle sandbox: %s\n", mib(perSandbox))
	return err
}

// timed runs do n times, one after another.
func timed(operation string, n int, do func(i int) error) (measurement, error) {
	took := make([]float64, 0, n)
	for i := range n {
		start := time.Now()
		if err := do(i); err != nil {
			return measurement{}, fmt.Errorf("%s number %d: %w", operation, i+1, err)
		}
		took = append(took, float64(time.Since(start).Microseconds())/1000)
	}
	slices.Sort(took)
	return measurement{
		Operation: operation, Count: n, Median: quantile(took, .5), P95: quantile(took, .95), Max: took[n-1],
	}, nil
}

// quantile is the smallest value that at least the share q of the sorted values do not exceed.
func quantile(sorted []float64, q float64) float64 {
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// memAvailable is MemAvailable of /proc/meminfo, in bytes; 0 when it cannot be read.
func memAvailable() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			var kib int64
			if _, err := fmt.Sscanf(rest, "%d kB", &kib); err == nil {
				return kib << 10
			}
		}
	}
	return 0
}
