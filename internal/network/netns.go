package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// createNetNS makes a network namespace without IPv6 and mounts it at path, so that it stays when this process ends.
func createNetNS(path string) error {
	if err := prepareNetNSDir(); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("creating the mount point of a namespace: %w", err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := onDiscardedThread(func() error { return unshareAndMount(path) }); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func unshareAndMount(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("creating a network namespace: %w", err)
	}
	// Before any interface exists, so that not even a link-local address appears.
	if err := disableIPv6("all", "default"); err != nil {
		return err
	}
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(self, path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting a network namespace: %w", err)
	}
	return nil
}

// onDiscardedThread runs f on an operating system thread that ends afterwards, because f changes the thread's
// namespace and a thread that could not be changed back must never serve another goroutine.
func onDiscardedThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self shows its namespace. While this goroutine holds it, another
			// goroutine is sure to get a different thread.
			done <- onDiscardedThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// prepareNetNSDir makes the directory a shared mount, so that namespaces appear and vanish in other mount namespaces.
func prepareNetNSDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("creating the directory of namespaces: %w", err)
	}
	err := unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
		}
	}
	if err != nil {
		return fmt.Errorf("making the directory of namespaces a shared mount: %w", err)
	}
	return nil
}

// removeNetNS unmounts and removes a named namespace; it is no error when there is none. The namespace itself lives on
// while a process is in it.
func removeNetNS(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmounting a network namespace: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the mount point of a namespace: %w", err)
	}
	return nil
}

// listNetNS gives the names of all mounted namespaces.
func listNetNS() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing namespaces: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, filepath.Base(e.Name()))
	}
	return names, nil
}
