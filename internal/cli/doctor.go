package cli

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/superserve/superserve/internal/config"
	"github.com/superserve/superserve/internal/doctor"
	"github.com/superserve/superserve/internal/network"
)

// doctorCommand checks the host with the same words that the server refuses to start with.
func (a *App) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can run sandboxes, and say how to mend what is missing",
		Args: operands,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return a.doctor(cmd.Context(), cfg)
		},
	}
	bindSettings(cmd)
	return cmd
}

func (a *App) doctor(ctx context.Context, cfg *config.Config) error {
	checks := hostChecks(ctx, cfg)
	render := doctor.Table
	if a.json {
		render = doctor.JSON
	}
	if err := render(a.Out, checks); err != nil {
		return err
	}
	if doctor.Err(checks) != nil {
		return exitError{1} // the table has said why
	}
	return nil
}

// hostChecks looks at everything that running sandboxes with these settings needs.
func hostChecks(ctx context.Context, cfg *config.Config) []doctor.Check {
	return doctor.Run(ctx, doctor.Config{
		DataDir: cfg.DataDir,
		Probes:  doctor.HostProbes(func() doctor.NetworkFacts { return doctor.NetworkFacts(network.Try()) }),
		Extra: []func(context.Context) []doctor.Check{
			func(context.Context) []doctor.Check { return checkPlatform(cfg) },
			func(ctx context.Context) []doctor.Check { return checkNetwork(ctx, cfg) },
		},
	})
}

// checkPlatform looks for what the chosen gVisor platform needs.
func checkPlatform(cfg *config.Config) []doctor.Check {
	if cfg.GVisorPlatform != "kvm" {
		return nil
	}
	c := doctor.Check{Name: "kvm", Essential: true, OK: true, Found: "/dev/kvm can be opened"}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		c.OK, c.Found = false, "gvisor-platform is kvm, but "+err.Error()
		c.Mend = "set gvisor-platform to systrap, which needs no KVM, or turn virtualisation on."
		return []doctor.Check{c}
	}
	if err := f.Close(); err != nil {
		c.OK, c.Found = false, err.Error()
	}
	return []doctor.Check{c}
}

// refuseUnfit is the error of a host that cannot run sandboxes, in the doctor's words.
func refuseUnfit(ctx context.Context, cfg *config.Config) error {
	return doctor.Err(hostChecks(ctx, cfg))
}

// checkNetwork looks for what on this host would cut sandboxes off, such as another firewall or a network that overlaps.
func checkNetwork(ctx context.Context, cfg *config.Config) []doctor.Check {
	check := doctor.Check{Name: "sandbox network", OK: true, Found: cfg.NetworkCIDR + " is free"}
	paths, err := pathsOf(cfg.DataDir)
	if err != nil {
		return nil // the data directory's own check says so
	}
	settings, err := paths.network(cfg, nil)
	if err != nil {
		return []doctor.Check{{Name: check.Name, Essential: true, Found: err.Error(), Mend: "set network-cidr to an IPv4 network such as 10.201.0.0/16."}}
	}
	problems := network.Check(ctx, settings)
	if len(problems) == 0 {
		return []doctor.Check{check}
	}
	var checks []doctor.Check
	for _, p := range problems {
		found, mend, _ := strings.Cut(p, "; ")
		checks = append(checks, doctor.Check{Name: check.Name, Found: found, Mend: mend})
	}
	return checks
}
