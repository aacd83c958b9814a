package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is whom the server runs as; nil stands for the user of the test.
type account struct{ uid, gid uint32 }

// unprivileged chooses the account: PostgreSQL refuses to run as root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil && uid != 0 {
			return &account{uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// findBinaries returns the directory that holds initdb and postgres: PATH first, then Debian's newest version.
func findBinaries() (string, error) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	versions, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // only a malformed pattern is an error
	slices.SortFunc(versions, func(a, b string) int { return majorVersion(b) - majorVersion(a) })
	return findIn(append(dirs, versions...))
}

func findIn(dirs []string) (string, error) {
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", errors.New("no PostgreSQL server (initdb, postgres) in PATH or /usr/lib/postgresql/*/bin; install the Debian package postgresql: apt-get install postgresql")
}

// majorVersion reads 15 from /usr/lib/postgresql/15/bin; 0 when there is no number.
func majorVersion(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // 0 sorts last
	return n
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// startTied starts cmd so that it ends with this process, however that ends. The kernel sends the parent-death signal
// when the thread that forked ends, not the process; so one thread is kept for the server's whole life.
func startTied(cmd *exec.Cmd, exited chan<- struct{}) (*os.Process, error) {
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // PostgreSQL's immediate shutdown
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait() //nolint:errcheck // how it ended is in its log
			close(exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// dirPrefix begins the name of a server's directory; the test binary's pid follows.
const dirPrefix = "superserve-pgtest-"

// makeDir makes the server's directory, owned by its account. It is short, because a socket's path has at most 107
// bytes.
func makeDir(account *account) (string, error) {
	dir, err := os.MkdirTemp("", dirPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	if account != nil {
		if err := os.Chown(dir, int(account.uid), int(account.gid)); err != nil {
			return "", fmt.Errorf("giving %s to the server's account: %w", dir, err)
		}
	}
	return dir, nil
}

// sweep removes the directories of test binaries that were killed.
func sweep() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*")) // only a malformed pattern is an error
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		pid, err := strconv.Atoi(owner)
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.RemoveAll(dir) //nolint:errcheck // another user's stays
		}
	}
}
