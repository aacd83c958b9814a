package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/superserve/superserve/client"
)

const (
	// benchBytes is the size of a transfer.
	benchBytes = 100 << 20
	// benchTransfers is how often each transfer is done; they take long, so it is less than for commands.
	benchTransfers = 9
)

// comparison is the Go client against net/http alone, on the same calls in turn.
type comparison struct {
	Operation string  `json:"operation"`
	Count     int     `json:"count"`
	Client    float64 `json:"client_median_ms"`
	Bare      float64 `json:"bare_median_ms"`
}

// contender does the same work with one of the two.
type contender func(ctx context.Context) error

// benchSDK measures what the Go client costs on top of a bare HTTP client.
func (a *App) benchSDK(ctx context.Context, c *client.Client, n int) (err error) {
	sb, err := c.CreateSandbox(ctx, client.CreateSandboxRequest{Name: "bench-sdk"})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.DeleteSandbox(context.WithoutCancel(ctx), sb.ID))
	}()
	dp, err := c.DataPlane(sb)
	if err != nil {
		return err
	}
	bare := newBareClient(sb, c.BaseURL())
	payload := bytes.Repeat([]byte("superserve bench "), benchBytes/17+1)[:benchBytes]
	const file = "/home/user/bench.bin"
	var all []comparison
	for _, op := range []struct {
		name      string
		count     int
		sdk, bare contender
	}{
		{"exec true", n, func(ctx context.Context) error {
			_, err := dp.Exec(ctx, client.ExecRequest{Command: "true"})
			return err
		}, func(ctx context.Context) error {
			return bare.do(ctx, http.MethodPost, "/exec", []byte(`{"command":"true"}`))
		}},
		{"upload 100 MiB", benchTransfers, func(ctx context.Context) error {
			_, err := dp.WriteFile(ctx, file, bytes.NewReader(payload), benchBytes)
			return err
		}, func(ctx context.Context) error {
			return bare.do(ctx, http.MethodPost, "/files?path="+url.QueryEscape(file), payload)
		}},
		{"download 100 MiB", benchTransfers, func(ctx context.Context) error {
			f, err := dp.ReadFile(ctx, file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(io.Discard, f)
			return err
		}, func(ctx context.Context) error {
			return bare.do(ctx, http.MethodGet, "/files?path="+url.QueryEscape(file), nil)
		}},
	} {
		result, err := compare(ctx, op.name, op.count, op.sdk, op.bare)
		if err != nil {
			return err
		}
		all = append(all, result)
	}
	return a.printComparisons(all)
}

// compare runs both in turn, so that whatever else the machine does falls on both; the one that begins changes. The
// first run of each warms up.
func compare(ctx context.Context, name string, n int, sdk, bare contender) (comparison, error) {
	took := [2][]float64{}
	for i := range n + 1 {
		for k := range 2 {
			k := (k + i) % 2
			start := time.Now()
			if err := []contender{sdk, bare}[k](ctx); err != nil {
				return comparison{}, fmt.Errorf("%s number %d: %w", name, i, err)
			}
			if i > 0 {
				took[k] = append(took[k], float64(time.Since(start).Microseconds())/1000)
			}
		}
	}
	slices.Sort(took[0])
	slices.Sort(took[1])
	return comparison{Operation: name, Count: n, Client: quantile(took[0], .5), Bare: quantile(took[1], .5)}, nil
}

func (a *App) printComparisons(all []comparison) error {
	if a.json {
		return a.printJSON(all)
	}
	rows := make([][]string, 0, len(all))
	for _, c := range all {
		rows = append(rows, []string{
			c.Operation, fmt.Sprint(c.Count), fmt.Sprintf("%.2f ms", c.Client), fmt.Sprintf("%.2f ms", c.Bare),
			fmt.Sprintf("%+.2f ms", c.Client-c.Bare), fmt.Sprintf("%.2f", c.Bare/c.Client),
		})
	}
	return a.table([]string{"OPERATION", "COUNT", "CLIENT", "BARE HTTP", "OVERHEAD", "SPEED RATIO"}, rows)
}

// bareClient sends the same requests with net/http and nothing else.
type bareClient struct {
	http   http.Client
	origin string
	header http.Header
}

func newBareClient(sb *client.Sandbox, baseURL string) *bareClient {
	b := &bareClient{origin: sb.DataPlaneURL, header: http.Header{}}
	if b.origin == "" {
		b.origin = baseURL
	}
	b.header.Set("X-Superserve-Sandbox-Id", sb.ID)
	b.header.Set("X-Access-Token", sb.AccessToken)
	return b
}

func (b *bareClient) do(ctx context.Context, method, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, b.origin+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = b.header.Clone()
	res, err := b.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", res.Status)
	}
	return nil
}
