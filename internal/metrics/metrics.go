// Package metrics keeps what the server counts, in a Prometheus registry of its own, and serves it.
//
// Nothing else imports Prometheus: control, edge and node declare small interfaces, which *Metrics fulfils, and get it
// passed in. All methods may be called at the same time.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/sandbox"
)

// countTimeout bounds the store's part of a scrape.
const countTimeout = 5 * time.Second

// Metrics is one server's numbers.
type Metrics struct {
	registry *prometheus.Registry

	operations *prometheus.CounterVec
	errors     *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	kills      *prometheus.CounterVec
	reliefs    prometheus.Counter
	retries    prometheus.Counter
	warmStarts *prometheus.CounterVec
	warmPool   prometheus.Gauge
}

var _ control.Metrics = (*Metrics)(nil)

// New makes an empty set, with the Go runtime's and the process's own numbers.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "superserve_operations_total",
			Help: "Operations that ended, with and without error: create, pause, resume, wake, delete, exec, exec_stream, files.",
		}, []string{"operation"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "superserve_operation_errors_total",
			Help: "Operations that ended in an error, by the code that the client was told.",
		}, []string{"operation", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "superserve_operation_duration_seconds",
			Help:    "How long operations without error took, in seconds.",
			Buckets: []float64{.01, .025, .05, .1, .15, .2, .3, .5, .75, 1, 2, 5, 10, 30, 60, 300},
		}, []string{"operation"}),
		kills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "superserve_memory_kills_total",
			Help: "Memory limits that were hit: outcome process (the largest process was killed) or sandbox (all of it was lost).",
		}, []string{"outcome"}),
		reliefs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "superserve_memory_relief_failures_total",
			Help: "Requests to kill the largest process near the memory limit that failed or found none.",
		}),
		warmStarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "superserve_warm_starts_total",
			Help: "Creates from a template, by pool: hit (a warm sandbox was taken) or miss (one was restored).",
		}, []string{"pool"}),
		warmPool: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "superserve_warm_pool_sandboxes", Help: "Warm sandboxes that wait to be taken.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "superserve_restore_retries_total",
			Help: "Restores that failed and were tried again from the same snapshot.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "superserve_build_info", Help: "1, with the version as a label.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(m.operations, m.errors, m.seconds, m.kills, m.reliefs, m.retries,
		m.warmStarts, m.warmPool, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the numbers in Prometheus' text form.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Operation implements control.Metrics: one operation that took this long, code "" for success.
func (m *Metrics) Operation(op control.Operation, took time.Duration, code sandbox.Code) {
	m.observe(string(op), took, code)
}

// DataPlane is what the edge counts with: its calls are operations too.
func (m *Metrics) DataPlane() DataPlane { return DataPlane{m} }

// DataPlane implements edge.Metrics.
type DataPlane struct{ metrics *Metrics }

// Operation counts one finished data-plane call (exec, exec_stream, files and so on), for as long as its answer took.
func (d DataPlane) Operation(name string, took time.Duration, err error) {
	d.metrics.observe(name, took, sandbox.CodeOf(err))
}

func (m *Metrics) observe(operation string, took time.Duration, code sandbox.Code) {
	m.operations.WithLabelValues(operation).Inc()
	if code != "" {
		m.errors.WithLabelValues(operation, string(code)).Inc()
		return
	}
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// MemoryKill counts a memory limit that was hit; lost says that the whole sandbox ended.
func (m *Metrics) MemoryKill(lost bool) {
	outcome := "process"
	if lost {
		outcome = "sandbox"
	}
	m.kills.WithLabelValues(outcome).Inc()
}

// MemoryReliefFailed counts a request to kill the largest process that failed or killed nothing.
func (m *Metrics) MemoryReliefFailed() { m.reliefs.Inc() }

// RestoreRetried counts a restore that failed and was tried again.
func (m *Metrics) RestoreRetried() { m.retries.Inc() }

// WarmPool says how many warm sandboxes there are.
func (m *Metrics) WarmPool(size int) { m.warmPool.Set(float64(size)) }

// WarmStart counts a create from a template that found a warm sandbox, or did not.
func (m *Metrics) WarmStart(hit bool) {
	pool := "miss"
	if hit {
		pool = "hit"
	}
	m.warmStarts.WithLabelValues(pool).Inc()
}

// WatchSandboxes has every scrape ask count how many sandboxes are in each state. Called once.
func (m *Metrics) WatchSandboxes(count func(context.Context) (map[sandbox.State]int, error)) {
	m.registry.MustRegister(&countCollector[sandbox.State]{
		count: count,
		desc: prometheus.NewDesc("superserve_sandboxes", "Sandboxes of all teams by state.",
			[]string{"state"}, nil),
		all: []sandbox.State{
			sandbox.StateCreating, sandbox.StateActive, sandbox.StatePausing, sandbox.StatePaused,
			sandbox.StateResuming, sandbox.StateFailed, sandbox.StateDeleting,
		},
	})
}

// WatchBuilds has every scrape ask count how many template builds have each status. Called once.
func (m *Metrics) WatchBuilds(count func(context.Context) (map[sandbox.BuildStatus]int, error)) {
	m.registry.MustRegister(&countCollector[sandbox.BuildStatus]{
		count: count,
		desc: prometheus.NewDesc("superserve_template_builds", "Template builds of all teams that are kept, by status.",
			[]string{"status"}, nil),
		all: []sandbox.BuildStatus{
			sandbox.BuildPending, sandbox.BuildBuilding, sandbox.BuildSnapshotting,
			sandbox.BuildReady, sandbox.BuildFailed, sandbox.BuildCancelled,
		},
	})
}

// WatchGauge has every scrape ask read for a number. name is without the prefix superserve_. Called once per name.
func (m *Metrics) WatchGauge(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "superserve_" + name, Help: help}, read))
}

// WatchCounter is WatchGauge for a number that only rises.
func (m *Metrics) WatchCounter(name, help string, read func() float64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "superserve_" + name, Help: help}, read))
}

// countCollector asks at scrape time, so that the numbers cannot drift from the store.
type countCollector[K ~string] struct {
	count func(context.Context) (map[K]int, error)
	desc  *prometheus.Desc
	all   []K
}

// Describe implements prometheus.Collector.
func (c *countCollector[K]) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector. What there is none of is reported as 0, so that graphs have no gaps.
func (c *countCollector[K]) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout)
	defer cancel()
	counts, err := c.count(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.desc, err)
		return
	}
	for _, key := range c.all {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(counts[key]), string(key))
	}
}
