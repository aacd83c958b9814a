package guest

import (
	"math"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
)

const (
	// maxExecBody bounds the body of an exec; a larger one is 413.
	maxExecBody = 1 << 20
	shellPath   = "/bin/sh"
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// command is an exec request with everything filled in.
type command struct {
	name    string
	argv    []string
	file    string // what is executed; "": look name up in PATH
	env     map[string]string
	dir     string
	user    *account
	timeout time.Duration // 0: none

	input    bool                 // standard input is a pipe rather than /dev/null
	terminal *guestapi.WindowSize // all three files are a terminal of this size; nil: no terminal
}

// readCommand reads, checks and completes an exec request.
func (s *Server) readCommand(w http.ResponseWriter, r *http.Request) (*command, error) {
	var req guestapi.ExecRequest
	if err := readJSON(w, r, maxExecBody, &req); err != nil {
		return nil, err
	}
	if err := validateExec(&req); err != nil {
		return nil, err
	}
	return s.completeCommand(&req, lookupListed)
}

// validateExec checks what needs no look at the sandbox.
func validateExec(req *guestapi.ExecRequest) error {
	if req.Command == "" {
		return badRequest("command must not be empty")
	}
	if hasNUL(req.Command) || slices.ContainsFunc(req.Args, hasNUL) {
		return badRequest("command and args must not contain NUL")
	}
	if hasNUL(req.User) {
		return badRequest("user must not contain NUL")
	}
	if req.WorkingDir != "" {
		if !strings.HasPrefix(req.WorkingDir, "/") || hasNUL(req.WorkingDir) || len(req.WorkingDir) > guestapi.MaxPath {
			return badRequest("working_dir must be an absolute path of at most %d bytes without NUL", guestapi.MaxPath)
		}
	}
	if t := req.TimeoutS; t != nil && (!(*t > 0) || *t > guestapi.MaxTimeoutS) {
		return badRequest("timeout_s must be above 0 and at most %d", guestapi.MaxTimeoutS)
	}
	return validateEnv(req.Env)
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// validateEnv refuses only what can't be an environment: narrower rules for names are the control plane's.
func validateEnv(env map[string]string) error {
	for name, value := range env {
		if name == "" || strings.Contains(name, "=") || hasNUL(name) {
			return badRequest("env: %q is no valid name", name)
		}
		if hasNUL(value) {
			return badRequest("env: the value of %s contains NUL", name)
		}
	}
	return nil
}

// completeCommand applies the defaults of Init. find finds the user that the request names.
func (s *Server) completeCommand(req *guestapi.ExecRequest, find func(string) (*account, error)) (*command, error) {
	id := s.identity.Load()
	name := req.User
	if name == "" {
		name, find = id.user, lookupUser
	}
	user, err := find(name)
	if err != nil {
		return nil, err
	}
	c := &command{name: req.Command, user: user, env: environment(user, id.env, req.Env), timeout: timeoutOf(req)}
	if c.dir, err = workingDir(req.WorkingDir, id.workdir, user.home); err != nil {
		return nil, err
	}
	if req.Args == nil {
		c.file = shellPath
		c.argv = []string{shellPath, "-c", req.Command}
	} else {
		c.argv = append([]string{req.Command}, req.Args...)
	}
	return c, nil
}

// timeoutOf rounds up to a nanosecond: the smallest timeout is still one.
func timeoutOf(req *guestapi.ExecRequest) time.Duration {
	seconds := float64(guestapi.DefaultTimeoutS)
	if req.TimeoutS != nil {
		seconds = *req.TimeoutS
	}
	return time.Duration(math.Ceil(seconds * float64(time.Second)))
}

// workingDir takes the asked one, which must exist, or else the first that exists of the default, the home and /.
func workingDir(asked, fallback, home string) (string, error) {
	if asked != "" {
		if !isDir(asked) {
			return "", badRequest("working_dir %s is not an existing directory", asked)
		}
		return path.Clean(asked), nil
	}
	for _, dir := range []string{fallback, home} {
		if strings.HasPrefix(dir, "/") && isDir(dir) {
			return path.Clean(dir), nil
		}
	}
	return "/", nil
}

func isDir(dir string) bool {
	info, err := os.Stat(dir)
	return err == nil && info.IsDir()
}

// environment is a login-like one, then each of the layers over it. Nothing of boxd's own gets in.
func environment(user *account, layers ...map[string]string) map[string]string {
	env := map[string]string{
		"HOME": user.home, "USER": user.name, "LOGNAME": user.name, "SHELL": user.shell,
		"PATH": defaultPath, "LANG": "C.UTF-8",
	}
	for _, layer := range layers {
		for name, value := range layer {
			env[name] = value
		}
	}
	return env
}

// environ is env in the form the kernel takes, sorted so that it is the same every time.
func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}
