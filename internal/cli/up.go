package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/superserve/superserve/client"
	"github.com/superserve/superserve/internal/config"
)

const (
	logFileName = "server.log"
	pollEvery   = 200 * time.Millisecond
	// logTail is how much of the log is shown when the server does not come up.
	logTail = 2000
)

func (a *App) upCommand() *cobra.Command {
	var wait string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a server in the background and wait until it is ready",
		Long: `Start a server in the background with its log in <data-dir>/server.log and its process id in
<data-dir>/server.pid, wait until sandboxes can be created, and print its address and API key. When one is running
already, say so. Takes the settings of superserve server.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			span, err := parseSpan("wait", wait)
			if err != nil {
				return err
			}
			cfg, _, err := a.settings(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), span)
			defer cancel()
			return a.up(ctx, cfg, serverArgs(cmd.Flags()))
		},
	}
	bindSettings(cmd)
	cmd.Flags().StringVar(&wait, "wait", "20m", "give up waiting after this long; the server goes on")
	return cmd
}

// serverArgs are the settings that up was given, to be handed on.
func serverArgs(flags *pflag.FlagSet) []string {
	args := []string{"server"}
	settings := pflag.NewFlagSet("server", pflag.ContinueOnError)
	settings.String("config", "", "")
	config.Bind(settings)
	flags.Visit(func(f *pflag.Flag) {
		if settings.Lookup(f.Name) != nil {
			args = append(args, "--"+f.Name+"="+f.Value.String())
		}
	})
	return args
}

func (a *App) up(ctx context.Context, cfg *config.Config, args []string) error {
	pid, running, err := runningServer(cfg.DataDir)
	if err != nil {
		return err
	}
	var ended <-chan error
	if running {
		fmt.Fprintf(a.Err, "a server is running already (process %d)\n", pid)
	} else if ended, err = a.startInBackground(cfg.DataDir, args); err != nil {
		return err
	}
	local, err := a.waitReady(ctx, cfg.DataDir, ended)
	if err != nil {
		return err
	}
	return a.printServer(cfg, local)
}

func (a *App) printServer(cfg *config.Config, local *localServer) error {
	key, err := a.serverKey(cfg)
	if err != nil {
		return err
	}
	if a.json {
		out := map[string]string{"base_url": local.url, "api_key": key}
		if file := local.caFile(); file != "" {
			out["ca_file"] = file
		}
		return a.printJSON(out)
	}
	if key == "" {
		key = "(the one you gave or made; superserve key create makes another)"
	}
	_, err = fmt.Fprintf(a.Out, "export SUPERSERVE_BASE_URL=%s\nexport SUPERSERVE_API_KEY=%s\n", local.url, key)
	if file := local.caFile(); file != "" && err == nil {
		_, err = fmt.Fprintf(a.Out, "export SUPERSERVE_CA_FILE=%s\n", file)
	}
	return err
}

// serverKey is the key that this machine's server accepts, as far as it can be known here; "" when not.
func (a *App) serverKey(cfg *config.Config) (string, error) {
	key, err := readKeyFile(cfg.DataDir)
	if err != nil || key != "" {
		return key, err
	}
	return cfg.BootstrapAPIKey, nil
}

// startInBackground starts this program's server command in a session of its own, so that it outlives the terminal.
// ended delivers how it ended, should it end while this process still waits.
func (a *App) startInBackground(dataDir string, args []string) (ended <-chan error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	// What a killed server noted about itself must not be taken for the new one's.
	for _, name := range []string{urlFileName, tlsNoteName} {
		if err := os.Remove(filepath.Join(dataDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("removing an old note: %w", err)
		}
	}
	log, err := os.OpenFile(filepath.Join(dataDir, logFileName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(self, args...)
	// Standard output gets the generated key, which belongs in no log; nil is /dev/null.
	cmd.Stderr, cmd.Env = log, a.Environ
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	fmt.Fprintf(a.Err, "starting the server (process %d, log %s)\n", cmd.Process.Pid, log.Name())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	return exited, nil
}

// waitReady waits until the server of the data directory can create sandboxes and shows what it waits for.
func (a *App) waitReady(ctx context.Context, dataDir string, ended <-chan error) (*localServer, error) {
	show := &progressLine{w: a.Err, terminal: isTerminal(a.Err)}
	defer show.end()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		local, ready, err := a.askReady(ctx, dataDir, show)
		if ready || err != nil {
			return local, err
		}
		select {
		case <-tick.C:
		case err := <-ended:
			show.end()
			if err == nil {
				err = errors.New("it was stopped")
			}
			return nil, fmt.Errorf("the server did not come up: %s (%w)", tailOf(filepath.Join(dataDir, logFileName)), err)
		case <-ctx.Done():
			return nil, fmt.Errorf("the server is not ready yet; it goes on, see %s", filepath.Join(dataDir, logFileName))
		}
	}
}

// askReady asks the server once. Its error is one that waiting does not mend; a server that does not answer yet is none.
func (a *App) askReady(ctx context.Context, dataDir string, show *progressLine) (local *localServer, ready bool, err error) {
	local, err = findServer(dataDir)
	if err != nil {
		return nil, false, nil // not listening yet
	}
	c, err := local.client(a, "")
	if err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := c.Ready(ctx)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return nil, false, fmt.Errorf("the server runs, but its certificate is not good for %s: %s", local.url, err.Error())
	}
	if err != nil {
		return nil, false, nil
	}
	show.update(r.WaitingFor, time.Now())
	return local, r.Status == readyStatus, nil
}

const readyStatus = "ready"

// tailOf is the end of a log: the program's last words, which may be a list of what is missing, or else the last line.
func tailOf(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return "there is no log"
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > logTail {
		if _, err := f.Seek(-logTail, io.SeekEnd); err != nil {
			return "the log cannot be read"
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, logTail))
	if err != nil || len(data) == 0 {
		return "its log " + name + " is empty"
	}
	text := strings.TrimSpace(string(data))
	if i := strings.LastIndex("\n"+text, "\nsuperserve: "); i >= 0 {
		return strings.TrimPrefix(text[i:], "superserve: ")
	}
	return text[strings.LastIndex(text, "\n")+1:]
}

// progressLine shows what a server waits for: in place on a terminal, else a line per step and every ten seconds.
type progressLine struct {
	w        io.Writer
	terminal bool
	started  time.Time
	last     string // the step shown last
	lastAt   time.Time
	open     bool // a line on the terminal is not ended
}

func (p *progressLine) update(waiting []client.Waiting, now time.Time) {
	if len(waiting) == 0 {
		return
	}
	if p.started.IsZero() {
		p.started = now
	}
	w := waiting[0]
	step := w.What + ": " + w.Step
	count := ""
	if w.Total > 0 {
		count = fmt.Sprintf(" %d/%d", w.Done, w.Total)
	}
	line := fmt.Sprintf("%s%s (%ds)", printable(step), count, int(now.Sub(p.started).Seconds()))
	switch {
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
		p.open = true
	case step != p.last || now.Sub(p.lastAt) >= 10*time.Second:
		fmt.Fprintln(p.w, line)
	default:
		return
	}
	p.last, p.lastAt = step, now
}

func (p *progressLine) end() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}

func (a *App) downCommand() *cobra.Command {
	var clean bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the server of a data directory; sandboxes keep running",
		Long: `Stop the server that has the data directory and wait for its end. Its sandboxes keep running, and the next
start finds them. With --clean everything is removed as well: sandboxes, namespaces, rules, mounts and the data
directory with all images and snapshots.`,
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if err := a.down(cmd.Context(), cfg); err != nil || !clean {
				return err
			}
			return a.clean(cmd.Context(), cfg)
		},
	}
	bindSettings(cmd)
	cmd.Flags().BoolVar(&clean, "clean", false, "remove everything the server made, for good")
	return cmd
}

func (a *App) down(ctx context.Context, cfg *config.Config) error {
	pid, running, err := runningServer(cfg.DataDir)
	if err != nil {
		return err
	}
	if !running {
		fmt.Fprintln(a.Err, "no server is running in "+cfg.DataDir)
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stopping process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.ShutdownGrace*2+time.Minute)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for running {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("process %d has not stopped; its log is %s", pid, filepath.Join(cfg.DataDir, logFileName))
		}
		// The pid file is empty for a moment while the server lets go of it.
		if _, still, err := runningServer(cfg.DataDir); err == nil {
			running = still
		}
	}
	fmt.Fprintf(a.Err, "stopped the server (process %d); its sandboxes keep running\n", pid)
	return nil
}
