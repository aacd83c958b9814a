package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/egress"
	"github.com/superserve/superserve/internal/image"
	"github.com/superserve/superserve/internal/network"
	"github.com/superserve/superserve/internal/node"
	"github.com/superserve/superserve/internal/runtime/gvisor"
	"github.com/superserve/superserve/internal/snapshot"
)

// hostPaths are the places below the data directory that belong to the host.
type hostPaths struct {
	runtimes, shared, images, templates, snapshots, instances string
	// name tells this data directory's namespaces, rules and cgroups from those of other servers on the machine.
	name string
}

func pathsOf(dataDir string) (hostPaths, error) {
	root, err := filepath.Abs(dataDir)
	if err != nil {
		return hostPaths{}, fmt.Errorf("the data directory: %w", err)
	}
	// Interface names hold 15 bytes, which leaves six for this.
	name := fmt.Sprintf("%x", sha256.Sum256([]byte(root)))[:6]
	return hostPaths{
		runtimes: filepath.Join(root, "runtimes"), shared: filepath.Join(root, "run"),
		images: filepath.Join(root, "images"), templates: filepath.Join(root, "templates"),
		snapshots: filepath.Join(root, "snapshots"), instances: filepath.Join(root, "instances"), name: name,
	}, nil
}

func (p hostPaths) gvisor(cfg *config.Config, log *slog.Logger) gvisor.Config {
	return gvisor.Config{
		SharedDir: p.shared, Platform: cfg.GVisorPlatform, CgroupParent: "superserve-" + p.name,
		MaxProcesses: cfg.PIDsLimit, Logger: log,
	}
}

func (p hostPaths) network(cfg *config.Config, log *slog.Logger) (network.Config, error) {
	cidr, err := netip.ParsePrefix(cfg.NetworkCIDR)
	if err != nil {
		return network.Config{}, fmt.Errorf("setting network-cidr (from %s): %w", cfg.Origin("network-cidr"), err)
	}
	blocked := make([]netip.Prefix, len(cfg.NetworkBlocked))
	for i, text := range cfg.NetworkBlocked {
		if blocked[i], err = netip.ParsePrefix(text); err != nil {
			return network.Config{}, fmt.Errorf("setting network-blocked (from %s): %w", cfg.Origin("network-blocked"), err)
		}
	}
	pool := cfg.NetworkPool
	if pool == 0 {
		pool = -1 // network's word for none
	}
	return network.Config{
		Instance: p.name, CIDR: cidr, PoolSize: pool, MaxConnections: cfg.NetworkConnections, MaxMbits: cfg.NetworkBandwidth,
		Blocked: blocked, Logger: log,
	}, nil
}

// gvisorHost is a host whose sandboxes gVisor isolates.
type gvisorHost struct {
	*node.Node
	paths    hostPaths
	versions *gvisor.Versions
	images   *image.Store
	cfg      *config.Config
	log      *slog.Logger
	undo     unwind
	making
}

// openGVisorHost checks the machine, unpacks the runtime and opens images, network, snapshots and the node.
func openGVisorHost(ctx context.Context, hc HostConfig) (_ Host, err error) {
	paths, err := pathsOf(hc.Config.DataDir)
	if err != nil {
		return nil, err
	}
	if err := refuseUnfit(ctx, hc.Config); err != nil {
		return nil, err
	}
	h := &gvisorHost{paths: paths, cfg: hc.Config, log: hc.Logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.undo.run(context.WithoutCancel(ctx)))
		}
	}()
	if h.versions, err = gvisor.NewVersions(paths.runtimes, paths.gvisor(hc.Config, hc.Logger)); err != nil {
		return nil, err
	}
	// What is mounted in there has the files of all teams' templates, readable by whom the templates say.
	if err := makePrivate(paths.images); err != nil {
		return nil, fmt.Errorf("closing the images to other users: %w", err)
	}
	h.images, err = image.Open(paths.images, image.Options{
		Mirror: hc.Config.DebianMirror, ExtraCAFiles: hc.Config.ExtraCAFiles, RegistryConfig: hc.Config.RegistryConfig,
		PrivateRegistries: append([]string{}, hc.Config.PrivateRegistries...),
		Logger:            hc.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the images: %w", err)
	}
	if h.snapshots, err = snapshot.Open(paths.snapshots); err != nil {
		return nil, fmt.Errorf("opening the snapshots: %w", err)
	}
	slots, err := h.openNetwork(ctx, hc)
	if err != nil {
		return nil, err
	}
	h.Node, err = node.New(ctx, node.Config{
		Dir: paths.instances, Drivers: h.versions, Slots: slots, Images: h.images, Snapshots: h.snapshots,
		Metrics: hc.Metrics, Logger: hc.Logger, WarmPool: hc.Config.WarmPoolSize,
		MaxProcesses: hc.Config.PIDsLimit,
	})
	if err != nil {
		return nil, err
	}
	h.undo.push("stopping the node", h.Node.Stop)
	return h, nil
}

func (h *gvisorHost) openNetwork(ctx context.Context, hc HostConfig) (*network.Manager, error) {
	cfg, err := h.paths.network(hc.Config, hc.Logger)
	if err != nil {
		return nil, err
	}
	gatekeeper, err := egress.New(egress.Config{
		Blocked:  append([]netip.Prefix{cfg.CIDR}, cfg.Blocked...), // that no slot's proxy leads to another slot
		Upstream: hc.Config.DNSUpstream, ConnectionsPerSlot: cfg.MaxConnections, MaxMbits: cfg.MaxMbits,
		Recorder: hc.NetworkLog, Logger: hc.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("setting up the network: %w", err)
	}
	cfg.Gatekeeper = gatekeeper
	slots, err := network.New(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("setting up the network: %w", err)
	}
	h.undo.push("stopping the network", slots.Stop)
	hc.Metrics.WatchGauge("network_slots_ready", "Closed network slots that wait to be taken.", func() float64 {
		ready, _ := slots.Counts()
		return float64(ready)
	})
	hc.Metrics.WatchGauge("network_slots_in_use", "Network slots of sandboxes, warm ones included.", func() float64 {
		_, inUse := slots.Counts()
		return float64(inUse)
	})
	return slots, nil
}

// Stop implements Host.
func (h *gvisorHost) Stop(ctx context.Context) error { return h.undo.run(ctx) }

// removeHostState ends every sandbox of a data directory whose server has stopped, and removes its namespaces, rules,
// cgroups and mounts.
func removeHostState(ctx context.Context, cfg *config.Config) error {
	paths, err := pathsOf(cfg.DataDir)
	if err != nil {
		return err
	}
	return errors.Join(
		gvisor.Cleanup(ctx, "superserve-"+paths.name),
		network.Cleanup(ctx, paths.name),
		unmountBelow(paths.images), unmountBelow(paths.shared),
	)
}

// unmountBelow is image.UnmountBelow for a path that may lead over links, which the mount table does not have.
func unmountBelow(dir string) error {
	mounted, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return image.UnmountBelow(mounted)
}

// makePrivate makes a directory that only its owner may enter, or closes one to all others: the data directory, which is
// so too when the server made it, may have been there before.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}
