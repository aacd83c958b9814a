// Package doctor checks whether a host can run sandboxes and says how to mend what is missing.
//
// Every check looks at one thing through a probe, and decides. Probes try the thing itself where that is possible (a
// scratch cgroup, a scratch network namespace, a scratch EROFS mount) rather than conclude from versions; nothing they
// make is left. The server runs the same checks before it starts, and refuses with the same words.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Check is the outcome of one check.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Essential: without it no sandbox runs, and the server does not start.
	Essential bool `json:"essential"`
	// Found is what was seen, in a few words.
	Found string `json:"found"`
	// Mend is a command or a sentence to act on; "" when OK.
	Mend string `json:"mend,omitempty"`
}

// Config says what to check.
type Config struct {
	// DataDir is the server's data directory; it need not exist yet.
	DataDir string
	// Extra are checks that other packages bring, run after the built-in ones.
	Extra []func(context.Context) []Check
	// Probes look at the host, as those of HostProbes do.
	Probes *Probes
}

// Run makes all checks, the basic ones first.
func Run(ctx context.Context, cfg Config) []Check {
	p := cfg.Probes
	var checks []Check
	checks = append(checks, checkRoot(p), checkKernel(p), checkArchitecture(p))
	checks = append(checks, checkCgroups(p)...)
	checks = append(checks, checkNetwork(p)...)
	checks = append(checks, checkForwarding(p), checkPorts(p), checkTun(p))
	checks = append(checks, checkTools(p)...)
	checks = append(checks, checkErofs(ctx, p))
	checks = append(checks, checkData(p, cfg.DataDir)...)
	checks = append(checks, checkMemory(p))
	for _, extra := range cfg.Extra {
		checks = append(checks, extra(ctx)...)
	}
	return checks
}

// Err is nil when every essential check is good; else an error that names each one that is not, and how to mend it.
func Err(checks []Check) error {
	var problems []string
	for _, c := range checks {
		if c.Essential && !c.OK {
			problems = append(problems, fmt.Sprintf("%s: %s. %s", c.Name, c.Found, c.Mend))
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New("this host can't run sandboxes yet:\n  " + strings.Join(problems, "\n  "))
}

// verdict fills in a check; mend is used only when it is not OK.
func verdict(name string, essential, ok bool, found, mend string) Check {
	c := Check{Name: name, OK: ok, Essential: essential, Found: found}
	if !ok {
		c.Mend = mend
	}
	return c
}
