package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
)

// Config says how a Manager lays out its slots.
type Config struct {
	// Instance tells several servers on one host apart: 1 to 6 lower-case letters or digits, default "0". It is part of
	// the name of every interface, namespace and table. Two instances must not have overlapping CIDRs.
	Instance string
	// CIDR is the IPv4 range that slots are cut from, one /30 each; default 10.201.0.0/16. Nothing else may use it.
	CIDR netip.Prefix
	// Gatekeeper answers DNS and passes TCP on. The Manager starts and stops it.
	Gatekeeper Gatekeeper
	// PoolSize is how many closed slots are kept ready; default 4, negative for none.
	PoolSize int
	// Blocked are ranges that no rule opens, besides those of sandbox.AlwaysBlocked: such as the public address of the
	// host itself when a gateway translates it, which the host cannot know.
	Blocked []netip.Prefix
	// MaxConnections is how many tracked connections one slot may have; default 4096. It keeps one sandbox from filling
	// the host's table.
	MaxConnections int
	// MaxMbits is how fast one slot may send to and receive from outside by UDP and ICMP, DNS aside, in Mbit/s each way;
	// 0 for no limit. What is above it is dropped. TCP is the gatekeeper's to limit.
	MaxMbits int
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// slotBits is the prefix length of one slot's link.
const slotBits = 30

func (c Config) withDefaults() Config {
	if c.Instance == "" {
		c.Instance = "0"
	}
	if !c.CIDR.IsValid() {
		c.CIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, 0, 0}), 16)
	}
	c.CIDR = c.CIDR.Masked()
	if c.PoolSize == 0 {
		c.PoolSize = 4
	}
	c.PoolSize = max(c.PoolSize, 0)
	if c.MaxConnections <= 0 {
		c.MaxConnections = 4096
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if err := validateInstance(c.Instance); err != nil {
		return err
	}
	if !c.CIDR.Addr().Is4() || c.CIDR.Bits() < 8 || c.CIDR.Bits() > slotBits {
		return fmt.Errorf("the network's CIDR %s must be IPv4 and between /8 and /%d", c.CIDR, slotBits)
	}
	for _, p := range c.Blocked {
		if !p.IsValid() {
			return errors.New("a blocked range is not a valid CIDR")
		}
	}
	if c.MaxMbits < 0 {
		return fmt.Errorf("the bandwidth of a slot, %d Mbit/s, must not be negative", c.MaxMbits)
	}
	return nil
}

func validateInstance(instance string) error {
	if !regexp.MustCompile(`^[a-z0-9]{1,6}$`).MatchString(instance) {
		return fmt.Errorf("the instance name %q must be 1 to 6 lower-case letters or digits", instance)
	}
	return nil
}
