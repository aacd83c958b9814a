package e2e

import (
	"slices"
	"strconv"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/superserve/superserve/client"
)

// BenchmarkCreateFromLargeTemplate compares creates from a template with 500 MB of dependencies with creates from the
// base, in turns, so that what else the machine does meets both: ratio is that of the medians.
func BenchmarkCreateFromLargeTemplate(b *testing.B) {
	name := templateName(b)
	shared.ready(b, name, m{"from_template": "superserve/base", "steps": []m{
		{"run": "mkdir /opt/deps && cd /opt/deps && head -c 500000000 /dev/urandom | split -b 50000 -a 4"},
	}})
	api := shared.client(b)
	create := func(template string) time.Duration {
		started := time.Now()
		sb, err := api.CreateSandbox(b.Context(), client.CreateSandboxRequest{Name: "bench", FromTemplate: template})
		took := time.Since(started)
		if err == nil {
			err = api.DeleteSandbox(b.Context(), sb.ID)
		}
		if err != nil {
			b.Fatal(err)
		}
		return took
	}
	var base, large []time.Duration
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 { // what one leaves to be done in the background meets the other
			base = append(base, create("superserve/base"))
		}
		large = append(large, create(name))
		if i%2 == 1 {
			base = append(base, create("superserve/base"))
		}
	}
	slices.Sort(base)
	slices.Sort(large)
	b.ReportMetric(float64(base[len(base)/2].Microseconds())/1000, "base-ms")
	b.ReportMetric(float64(large[len(large)/2].Microseconds())/1000, "large-ms")
	b.ReportMetric(float64(large[len(large)/2])/float64(base[len(base)/2]), "ratio")
}

// BenchmarkRebuildLastStep builds again and again with another last step; the first one takes five seconds.
func BenchmarkRebuildLastStep(b *testing.B) {
	reg, name := newRegistry(b), templateName(b)
	ref := reg.push("bench:1", v1.Config{Env: []string{"PATH=/bin"}}, alpineLike(b)...)
	build := func(n int) {
		shared.ready(b, name, m{"from": ref, "steps": []m{{"run": "sleep 5"}, {"run": "echo " + strconv.Itoa(n) + " > /last"}}})
	}
	build(0)
	n := 0
	for b.Loop() {
		n++
		build(n)
	}
}
