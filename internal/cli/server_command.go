package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/internal/config"
)

func (a *App) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the server",
		Long: `Run the server until SIGTERM or SIGINT. Sandboxes are processes of their own: they go on running when the
server stops, and the next start finds them again. docs/configuration.md explains every setting.`,
		Example: "  superserve server --data-dir /var/lib/superserve --listen 127.0.0.1:8080",
		Args:    operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.runServer(cmd.Context(), cfg, warnings)
		},
	}
	bindSettings(cmd)
	return cmd
}

func (a *App) runServer(ctx context.Context, cfg *config.Config, warnings []string) error {
	log := newLogger(a.Err, cfg)
	for _, w := range warnings {
		log.Warn(w)
	}
	srv := NewServer(ServerConfig{Config: cfg, Version: a.Version, Logger: log, Host: a.hostOpener(), Announce: a.Out})
	if err := srv.Start(ctx); err != nil {
		return err
	}
	var failure error
	select {
	case <-ctx.Done():
		log.Info("stopping; sandboxes keep running")
	case failure = <-srv.Failed():
		log.Error("stopping; sandboxes keep running", "error", failure)
	}
	if err := srv.Stop(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("stopping: %w", err)
	}
	return failure
}

func (a *App) hostOpener() HostOpener {
	if a.Host != nil {
		return a.Host
	}
	return openGVisorHost
}

func newLogger(w io.Writer, cfg *config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo // cfg was checked, so this does not happen
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
