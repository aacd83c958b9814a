package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/network/nettest"
)

const (
	// claims is where test programs have their directories: not below /tmp, which may be memory.
	claims      = "/var/tmp"
	claimPrefix = "superserve-e2e-"
	// lockName is locked in a claimed directory as long as its test program runs, networkName says which network is its.
	lockName, networkName = "test.lock", "test.network"
	// The networks that servers under test get are 10.firstNetwork.0.0/16 and so on.
	firstNetwork, lastNetwork = 220, 249
)

// Claim is a directory that is the test program's own as long as it runs. What a program left that was killed is
// cleaned up by the next one that claims a directory.
type Claim struct {
	// Path is the directory, Network one that neither the host nor another test uses.
	Path    string
	Network netip.Prefix
	lock    *os.File
}

// ClaimDir makes a directory and picks a network.
func ClaimDir() (*Claim, error) {
	all, err := lock(filepath.Join(claims, claimPrefix+"lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer all.Close()
	taken, err := networksInUse()
	if err != nil {
		return nil, err
	}
	c := &Claim{}
	if c.Network, err = freeNetwork(taken); err != nil {
		return nil, err
	}
	if c.Path, err = os.MkdirTemp(claims, claimPrefix); err != nil {
		return nil, err
	}
	if c.lock, err = lock(filepath.Join(c.Path, lockName), unix.LOCK_EX); err == nil {
		err = os.WriteFile(filepath.Join(c.Path, networkName), []byte(c.Network.String()), 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, c.Remove())
	}
	return c, nil
}

// Remove gives the directory and the network back.
func (c *Claim) Remove() error {
	err := os.RemoveAll(c.Path)
	if c.lock != nil {
		err = errors.Join(err, c.lock.Close())
	}
	return err
}

// lock opens a file and locks it; the lock ends with this process.
func lock(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return f, nil
}

// networksInUse cleans up what dead test programs left and gives the networks of the living and of the host.
func networksInUse() (taken []netip.Prefix, err error) {
	entries, err := os.ReadDir(claims)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(claims, e.Name())
		if !e.IsDir() || !strings.HasPrefix(e.Name(), claimPrefix) || sweep(dir) {
			continue
		}
		raw, _ := os.ReadFile(filepath.Join(dir, networkName))
		if p, err := netip.ParsePrefix(string(raw)); err == nil {
			taken = append(taken, p)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("the host's routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 {
			taken = append(taken, p)
		}
	}
	return taken, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

func freeNetwork(taken []netip.Prefix) (netip.Prefix, error) {
	for n := firstNetwork; n <= lastNetwork; n++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 16)
		free := true
		for _, t := range taken {
			free = free && !t.Overlaps(p)
		}
		if free {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("none of the networks 10.%d.0.0/16 to 10.%d.0.0/16 is free on this host", firstNetwork, lastNetwork)
}

// sweep removes what a dead test program left, and says whether that is gone. What can't be removed is no reason for
// other tests to fail: they have other networks.
func sweep(dir string) (gone bool) {
	if nettest.Inside() {
		return false // its links and rules may be on the host, which this program doesn't see
	}
	held, err := lock(filepath.Join(dir, lockName), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false // its program runs
	}
	defer held.Close()
	data := filepath.Join(dir, dataName)
	if _, err = os.Stat(data); err == nil {
		err = downClean([]string{"PATH=" + os.Getenv("PATH"), "SUPERSERVE_DATA_DIR=" + data})
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(unmountBelow(dir), os.RemoveAll(dir))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s is left from tests that were killed, and can't be cleaned up: %v\n", dir, err)
		return false
	}
	return true
}

// unmountBelow removes the mounts that tests without a server made, the newest first.
func unmountBelow(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		fields := strings.Fields(line) // as in proc_pid_mountinfo(5)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			err = errors.Join(err, unix.Unmount(fields[4], unix.MNT_DETACH))
		}
	}
	return err
}
