package guest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/guestapi"
)

// maxInitBody bounds the body of Init: two environments of 128 KiB each, in the worst JSON escaping.
const maxInitBody = 4 << 20

// maxHostname is the kernel's limit.
const maxHostname = 64

const (
	hostsPath    = "/etc/hosts"
	hostnamePath = "/etc/hostname"
	// hostsAddr is the line of the host's own name in /etc/hosts, as Debian does it.
	hostsAddr = "127.0.1.1"
)

// identity is what Init sets. It is replaced as a whole, never changed.
type identity struct {
	secret  [sha256.Size]byte
	env     map[string]string
	user    string // "" is root
	workdir string // "" is the user's home
}

// initialise gives the sandbox its identity. Once the secret has changed, all other connections are closed: they belong to
// the time before a restore, and whoever was at their other end is gone or no longer entitled.
func (s *Server) initialise(w http.ResponseWriter, r *http.Request) error {
	var req guestapi.Init
	if err := readJSON(w, r, maxInitBody, &req); err != nil {
		return err
	}
	if err := validateInit(&req); err != nil {
		return err
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	old := s.identity.Load()
	next := &identity{
		secret: sha256.Sum256([]byte(req.Secret)), env: req.Env, user: req.User, workdir: req.Workdir,
	}
	if req.MaxProcesses > 0 {
		if err := s.processes.setLimit(req.MaxProcesses); err != nil {
			return unavailable("limiting processes failed: %s", err)
		}
	}
	s.identity.Store(next)
	if req.Hostname != "" {
		// A full disk must not keep a sandbox from coming up again, so a name that can't be set is only logged.
		if err := setHostname(req.Hostname); err != nil {
			s.log.Warn("setting the host name failed", "err", err)
		}
	}
	if next.secret != old.secret {
		conn, _ := r.Context().Value(connKey{}).(net.Conn)
		s.conns.closeOthers(conn)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func validateInit(req *guestapi.Init) error {
	if req.Secret == "" {
		return badRequest("secret must not be empty")
	}
	if !validHostname(req.Hostname) {
		return badRequest("hostname must be at most %d letters, digits, dots and hyphens", maxHostname)
	}
	if req.Workdir != "" && !strings.HasPrefix(req.Workdir, "/") {
		return badRequest("workdir must be absolute")
	}
	if strings.ContainsRune(req.Workdir, 0) || strings.ContainsRune(req.User, 0) {
		return badRequest("workdir and user must not contain NUL")
	}
	if req.MaxProcesses < 0 {
		return badRequest("max_processes must not be negative")
	}
	return validateEnv(req.Env)
}

func validHostname(name string) bool {
	if len(name) > maxHostname {
		return false
	}
	for _, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// setHostname sets the kernel's host name and the two files that programs look it up in.
func setHostname(name string) error {
	err := unix.Sethostname([]byte(name))
	if err != nil {
		err = fmt.Errorf("sethostname: %w", err)
	}
	hosts, readErr := os.ReadFile(hostsPath)
	if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
		return errors.Join(err, readErr)
	}
	return errors.Join(err,
		replaceFile(hostnamePath, []byte(name+"\n")),
		replaceFile(hostsPath, hostsWithName(hosts, name)))
}

// hostsWithName gives the hosts file name as the host's own name, leaving every other line as it is.
func hostsWithName(hosts []byte, name string) []byte {
	var out bytes.Buffer
	done := false
	for line := range bytes.Lines(hosts) {
		fields := bytes.Fields(line)
		if len(fields) == 0 || string(fields[0]) != hostsAddr {
			out.Write(line)
			if !bytes.HasSuffix(line, []byte("\n")) {
				out.WriteByte('\n')
			}
		} else if !done {
			fmt.Fprintf(&out, "%s\t%s\n", hostsAddr, name)
			done = true
		}
	}
	if !done {
		fmt.Fprintf(&out, "%s\t%s\n", hostsAddr, name)
	}
	return out.Bytes()
}

// replaceFile writes a small system file so that a reader sees the old or the new one. A file that is a mount of its
// own can't be renamed over and is written in place.
func replaceFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	tmp := path + ".boxd"
	if err := os.WriteFile(tmp, content, 0o644); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(tmp))
	}
	err := os.Rename(tmp, path)
	if errors.Is(err, unix.EBUSY) {
		err = errors.Join(os.WriteFile(path, content, 0o644), os.Remove(tmp))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
