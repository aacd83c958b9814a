package cli

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/control"
	"github.com/superserve/superserve/internal/metrics"
	"github.com/superserve/superserve/internal/netlog"
	"github.com/superserve/superserve/internal/node"
	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/store"
	"github.com/superserve/superserve/internal/token"
)

const (
	// urlFileName is the file in the data directory with the base URL of the server that runs, for up, down and demo.
	urlFileName = "server.url"
	// tokenKeySetting is the store's setting with the key that access tokens are signed with.
	tokenKeySetting = "access-token-key"

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// ServerConfig is what a server is made of.
type ServerConfig struct {
	Config  *config.Config
	Version string
	Logger  *slog.Logger
	Host    HostOpener
	// Announce gets the generated API key, once, at the first start.
	Announce io.Writer
}

// Server is the whole program in one process. NewServer does nothing; Start brings everything up in an order in which
// each part finds what it needs, and takes all of it down again when one fails; Stop takes it down in the opposite
// order. Neither ever stops a sandbox. A Server is started once.
type Server struct {
	sc      ServerConfig
	cfg     *config.Config
	log     *slog.Logger
	metrics *metrics.Metrics

	store   *store.Store
	netlog  *netlog.Log
	host    Host
	control *control.Service

	tls     *tls.Config // nil: no TLS
	trust   string      // PEM file that a client on this machine trusts
	tlsHost func(host string) string

	addr, metricsAddr net.Addr
	failed            chan error
	undo              unwind
}

// NewServer makes a server that has not been started.
func NewServer(sc ServerConfig) *Server {
	return &Server{
		sc: sc, cfg: sc.Config, log: sc.Logger, metrics: metrics.New(sc.Version), failed: make(chan error, 2),
	}
}

// Start brings the server up and returns when it accepts requests. On error everything is as it was before.
func (s *Server) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.run(context.WithoutCancel(ctx)))
		}
	}()
	steps := []func(context.Context) error{
		s.lock, s.openTLS, s.openStore, s.bindStore, s.openNetworkLog, s.openHost, s.startControl, s.startTemplates,
		s.firstKey, s.listen, s.listenMetrics, s.writeTLSNote, s.writeURL,
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.log.Info("ready for requests", "url", s.URL(), "version", s.sc.Version, "data_dir", s.cfg.DataDir)
	return nil
}

// Stop lets open requests finish for the configured grace and takes everything down. Sandboxes go on running.
func (s *Server) Stop(ctx context.Context) error { return s.undo.run(ctx) }

// Failed delivers an error when the server can no longer serve, such as a listener that broke.
func (s *Server) Failed() <-chan error { return s.failed }

// URL is the base URL that clients use; valid after Start.
func (s *Server) URL() string { return s.baseURL() }

// MetricsAddr is where metrics are served; nil when they are off.
func (s *Server) MetricsAddr() net.Addr { return s.metricsAddr }

func (s *Server) lock(context.Context) error {
	release, err := lockDataDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	s.undo.push("releasing the data directory", func(context.Context) error { return release() })
	return nil
}

func (s *Server) openStore(ctx context.Context) error {
	st, err := store.Open(ctx, s.cfg.DatabaseURL())
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	s.store = st
	s.undo.push("closing the database", func(context.Context) error { return st.Close() })
	s.metrics.WatchSandboxes(st.CountByState)
	s.metrics.WatchBuilds(st.CountBuilds)
	return nil
}

// bindStore comes before the host, which removes what the database does not know.
func (s *Server) bindStore(ctx context.Context) error {
	paths, err := pathsOf(s.cfg.DataDir)
	if err != nil {
		return err
	}
	return node.BindDatabase(ctx, paths.snapshots, s.cfg.Database == "", s.store)
}

// openNetworkLog comes before the host, which writes to it until it is stopped.
func (s *Server) openNetworkLog(context.Context) error {
	l, err := netlog.New(netlog.Config{
		Store: s.store, Retention: s.cfg.NetworkLogRetention, MaxRows: s.cfg.NetworkLogMaxRows,
		Connections: s.cfg.NetworkConnections, Logger: s.log,
	})
	if err != nil {
		return err
	}
	s.netlog = l
	s.undo.push("stopping the network log", l.Stop)
	s.metrics.WatchCounter("network_log_attempts_total", "Connections, flows, queries and refused packets that the network log was told of.",
		func() float64 { return float64(l.Stats().Recorded) })
	s.metrics.WatchCounter("network_log_summed_total", "Those of them that are in summary rows, because a sandbox made too many or the database was slow.",
		func() float64 { return float64(l.Stats().Summed) })
	s.metrics.WatchGauge("network_log_waiting_rows", "Rows of the network log that wait to be written.",
		func() float64 { return float64(l.Stats().Waiting) })
	return nil
}

func (s *Server) firstKey(ctx context.Context) error {
	key, err := ensureFirstKey(ctx, s.store, s.cfg.DataDir, s.cfg.BootstrapAPIKey, time.Now())
	if err != nil {
		return err
	}
	if key != "" && s.sc.Announce != nil {
		_, err = fmt.Fprintf(s.sc.Announce, "API key (shown once, kept in %s): %s\n",
			filepath.Join(s.cfg.DataDir, keyFileName), key)
	}
	return err
}

func (s *Server) openHost(ctx context.Context) error {
	host, err := s.sc.Host(ctx, HostConfig{Config: s.cfg, Logger: s.log, Metrics: s.metrics, NetworkLog: s.netlog})
	if err != nil {
		return err
	}
	s.host = host
	s.undo.push("stopping the host", host.Stop)
	s.metrics.WatchGauge("disk_free_bytes", "Free space on the data directory's disk.", func() float64 {
		free, err := freeBytes(s.cfg.DataDir)
		if err != nil {
			return math.NaN()
		}
		return float64(free)
	})
	return nil
}

func (s *Server) startControl(ctx context.Context) error {
	key := make([]byte, 32)
	rand.Read(key) // never fails; it ends the program instead
	key, err := s.store.Setting(ctx, tokenKeySetting, key)
	if err != nil {
		return fmt.Errorf("reading the key of access tokens: %w", err)
	}
	builder, err := s.host.Builder(ctx, s.store)
	if err != nil {
		return fmt.Errorf("preparing the builds of templates: %w", err)
	}
	svc, err := control.New(control.Config{
		Store: s.store, Node: s.host, Builder: builder, Signer: token.New(key), Logger: s.log, Metrics: s.metrics,
		SandboxQuota: s.cfg.SandboxQuota, RatePerSecond: s.cfg.RateLimit, RateBurst: s.cfg.RateBurst,
		Builds:         control.BuildQuota{Templates: s.cfg.TemplateQuota, Builds: s.cfg.BuildQuota},
		TemplateLimits: sandbox.Resources{VCPU: s.cfg.TemplateMaxVCPU, MemoryMiB: s.cfg.TemplateMaxMemory, DiskMiB: s.cfg.TemplateMaxDisk},
		Uploads: control.UploadLimits{
			Context: mebibytes(s.cfg.BuildContextMax), Image: mebibytes(s.cfg.ImageUploadMax), Team: mebibytes(s.cfg.UploadQuota),
		},
		DefaultTimeoutAction: sandbox.TimeoutAction(s.cfg.DefaultTimeoutAction), EdgeWake: s.cfg.EdgeWake,
		NetworkLog: s.netlog, Room: diskRoom(s.cfg.DataDir, s.cfg.DiskReserve),
	})
	if err != nil {
		return fmt.Errorf("making the control plane: %w", err)
	}
	if err := svc.Start(ctx); err != nil {
		return fmt.Errorf("starting the control plane: %w", err)
	}
	s.control = svc
	s.undo.push("stopping the control plane", svc.Stop)
	return nil
}

func mebibytes(n int) int64 { return int64(n) << 20 }

func (s *Server) startTemplates(ctx context.Context) error {
	if err := s.host.PrepareTemplates(ctx, s.store); err != nil {
		return fmt.Errorf("preparing the templates: %w", err)
	}
	return nil
}

func (s *Server) listen(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("setting listen (from %s): %w", s.cfg.Origin("listen"), err)
	}
	s.addr = l.Addr()
	s.serve(s.withTLS(l), s.newHandler())
	return nil
}

func (s *Server) listenMetrics(ctx context.Context) error {
	if s.cfg.MetricsListen == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.MetricsListen)
	if err != nil {
		return fmt.Errorf("setting metrics-listen (from %s): %w", s.cfg.Origin("metrics-listen"), err)
	}
	s.metricsAddr = l.Addr()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	s.serve(l, mux)
	return nil
}

// serve answers on l until the undo. There is no write timeout: a download or a stream may take hours.
func (s *Server) serve(l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("serving on %s: %w", l.Addr(), err)
		}
	}()
	s.undo.push("closing the listener "+l.Addr().String(), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.ShutdownGrace)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			s.log.Warn("requests were cut off", "listener", l.Addr().String(), "grace", s.cfg.ShutdownGrace.String())
			return srv.Close()
		}
		return nil
	})
}

func (s *Server) writeURL(context.Context) error {
	name := filepath.Join(s.cfg.DataDir, urlFileName)
	if err := os.WriteFile(name, []byte(s.URL()+"\n"), 0o600); err != nil {
		return fmt.Errorf("noting the server's URL: %w", err)
	}
	s.undo.push("removing the note of the URL", func(context.Context) error { return os.Remove(name) })
	return nil
}
