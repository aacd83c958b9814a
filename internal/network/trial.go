package network

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

// Trial is what keeps a host from having sandboxes' networks, nil for what works. Without a namespace nothing else was
// tried.
type Trial struct{ Namespace, Veth, Nftables error }

// Try makes what every sandbox's network is made of in a namespace of its own, which is gone afterwards: each kind of
// rule is a feature that the kernel may have been built without. The host's interfaces and rules are never touched.
func Try() (t Trial) {
	t.Namespace = onDiscardedThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		t.Veth, t.Nftables = tryVeth(), tryRules()
		return nil
	})
	return t
}

func tryVeth() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "trial0"
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "trial1"})
}

// tryRules makes all the rules that there can be.
func tryRules() error {
	cfg := Config{Instance: "trial", MaxMbits: 1}.withDefaults()
	packets, err := openPacketLog(cfg.Instance)
	if err != nil {
		return err
	}
	defer packets.close()
	r := newRuleset(cfg)
	defer r.close()
	if err := r.installBase(base{ports: ports{resolver: dnsPort, proxy: dnsPort}, logGroup: packets.group}); err != nil {
		return err
	}
	err = errors.Join(r.trySlot(cfg), listTracked(trackFilter{}, func(tracked) {}))
	for _, name := range []string{conntrackCounters, conntrackTimes} {
		if _, missing := readSysctl(name); missing != nil {
			err = errors.Join(err, fmt.Errorf("connection tracking lacks what the network log needs: %w", missing))
		}
	}
	return err
}

// trySlot makes a slot's rules with a policy that has everything.
func (r *ruleset) trySlot(cfg Config) error {
	slot := layout{instance: cfg.Instance, cidr: cfg.CIDR}.slot(0)
	policy, err := sandbox.ParsePolicy(&sandbox.NetworkConfig{AllowOut: []string{"allowed.example", "192.0.2.0/24"}, DenyOut: []string{"0.0.0.0/0"}})
	if err != nil {
		return err
	}
	admission := sandbox.Admission{Addr: netip.MustParseAddr("192.0.2.1"), Name: "allowed.example", Until: time.Now().Add(time.Minute)}
	admitted := admissionElements([]sandbox.Admission{admission}, time.Now())
	if err := r.addSlot(slot); err != nil {
		return err
	}
	return errors.Join(r.openSlot(slot, policy, admitted), r.admit(slot, admitted), r.removeSlot(slot))
}
