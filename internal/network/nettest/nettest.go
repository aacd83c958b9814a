// Package nettest gives the tests of a package a host of their own: a network and a mount namespace in which no packet
// can leave the machine, nothing of the machine's own network is changed, and nothing on the machine is in the way.
package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	inside = "SUPERSERVE_NETTEST_INSIDE"
	// namedDir is where named namespaces are mounted.
	namedDir = "/run/netns"
)

// Main is for TestMain: it runs the test program once more, in namespaces of its own, where build makes what the tests
// find there. Loopback is up. It needs root.
func Main(tests interface{ Run() int }, build func() error) (exitCode int) {
	if !Inside() {
		return Rerun(os.Environ(), os.Args[1:])
	}
	if slices.Contains(os.Args, "-test.fuzzworker") { // started from within
		return tests.Run()
	}
	if err := errors.Join(Isolate(), build()); err != nil {
		fmt.Fprintln(os.Stderr, "building the test network:", err)
		return 1
	}
	return tests.Run()
}

// Inside says whether this program is in such namespaces.
func Inside() bool { return os.Getenv(inside) != "" }

// Rerun runs this program again in new namespaces, which Isolate then makes fit for use, and gives its exit code.
func Rerun(env, args []string) (exitCode int) {
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(slices.Clone(env), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root (CAP_SYS_ADMIN and CAP_NET_ADMIN) to make namespaces:", err)
		return 1
	}
	return 0
}

// Isolate keeps mounts and named namespaces from the machine's and sets up loopback.
func Isolate() error {
	if err := unix.Mount("", "/", "none", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := os.MkdirAll(namedDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", namedDir, "tmpfs", 0, ""); err != nil {
		return err
	}
	host, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	return SetUp(host, "lo")
}

// SetUp sets a link up and gives it addresses, which count at once.
func SetUp(h *netlink.Handle, name string, addrs ...string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range addrs {
		parsed, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		parsed.Flags = unix.IFA_F_NODAD
		if err := h.AddrAdd(link, parsed); err != nil {
			return fmt.Errorf("%s: %w", a, err)
		}
	}
	return nil
}

// InNS runs f on a thread in a namespace; sockets it opens stay there.
func InNS(path string, f func() error) error {
	return OnOwnThread(func() error {
		ns, err := netns.GetFromPath(path)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// OnOwnThread runs f on a thread that ends with it, and that is not the main one, which cannot end.
func OnOwnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- OnOwnThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
