package harness

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Destroy stops the server, removes everything it made and checks that nothing is left on the host.
func (s *Server) Destroy() error {
	err := s.Stop(syscall.SIGTERM)
	if os.Getenv("SUPERSERVE_E2E_LOG") != "" {
		raw, _ := os.ReadFile(s.LogPath)
		fmt.Fprintf(os.Stderr, "%s", raw)
	}
	if cerr := downClean(s.Env()); cerr != nil {
		return errors.Join(err, cerr)
	}
	err = errors.Join(err, s.leftovers())
	return errors.Join(err, s.claim.Remove())
}

// downClean removes everything of the server that this environment is of.
func downClean(env []string) error {
	binary, err := findBinary()
	if err != nil {
		return err
	}
	clean := exec.Command(binary, "down", "--clean")
	clean.Env = env
	if out, err := clean.CombinedOutput(); err != nil {
		return fmt.Errorf("down --clean: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// findBinary looks for the program from any package's directory.
func findBinary() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return filepath.Join(dir, "bin", "superserve"), nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("this test runs outside of the repository")
		}
	}
	return "", err
}

// leftovers reports what a cleaned-up server still has on the host.
func (s *Server) leftovers() error {
	data := s.Settings["DATA_DIR"]
	var found []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(data)) {
		found = append(found, "mounts")
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if raw, _ := os.ReadFile(p); bytes.Contains(raw, []byte(data)) {
			found = append(found, "process "+strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	ifaces, _ := net.Interfaces()
	prefix := strings.Join(strings.Split(s.Settings["NETWORK_CIDR"], ".")[:2], ".") + "."
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if strings.HasPrefix(a.String(), prefix) {
				found = append(found, "interface "+i.Name)
			}
		}
	}
	if _, err := os.Stat(data); err == nil {
		found = append(found, "data directory")
	}
	if len(found) > 0 {
		return fmt.Errorf("left on the host after down --clean: %s", strings.Join(found, ", "))
	}
	return nil
}
