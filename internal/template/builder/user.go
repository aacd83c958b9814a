package builder

import (
	"fmt"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/sandbox"
	"github.com/superserve/superserve/internal/template"
)

// What the script below exits with when the image lacks something, and what is then said.
const (
	exitNoUseradd = 81
	exitNoSudo    = 82
)

// userScript makes the user $BUILD_USER if need be and, with $BUILD_SUDO, lets it do anything by sudo. It looks for the
// user without any tool, and takes Debian's way of making one or else busybox's. A number needs no entry anywhere.
const userScript = `set -eu
known() { while IFS=: read -r n _; do [ "$n" != "$BUILD_USER" ] || return 0; done < "$1"; return 1; }
if [ "$BUILD_USER" != root ] && ! known /etc/passwd; then
  case $BUILD_USER in
  *[!0-9]*)
    shell=/bin/sh
    [ ! -x /bin/bash ] || shell=/bin/bash
    group=--user-group
    if known /etc/group; then group="--gid $BUILD_USER"; fi
    if command -v useradd >/dev/null; then useradd --create-home $group --shell "$shell" "$BUILD_USER"
    elif command -v adduser >/dev/null; then adduser -D -s "$shell" "$BUILD_USER"
    else exit 81
    fi ;;
  esac
fi
if [ -n "$BUILD_SUDO" ]; then
  command -v sudo >/dev/null || exit 82
  umask 227
  printf '%s ALL=(ALL:ALL) NOPASSWD:ALL\n' "$BUILD_SUDOER" > "/etc/sudoers.d/90-$BUILD_FILE"
fi
`

// userTimeout bounds the script.
const userTimeout = time.Minute

// makeUser does a user step.
func (j *job) makeUser(box template.Box, step *sandbox.UserStep) error {
	isNumber := strings.Trim(step.Name, "0123456789") == ""
	if !step.Sudo && (isNumber || step.Name == "root") {
		return nil // needs nothing of the image
	}
	if err := needShell(j.ctx, box); err != nil {
		return err
	}
	env := map[string]string{
		"PATH": defaultPath, "BUILD_USER": step.Name, "BUILD_SUDO": "", "BUILD_SUDOER": step.Name,
		"BUILD_FILE": strings.ReplaceAll(step.Name, ".", "_"), // sudo skips files with a dot
	}
	if isNumber {
		env["BUILD_SUDOER"] = "#" + step.Name
	}
	if step.Sudo {
		env["BUILD_SUDO"] = "yes"
	}
	var last template.Tail
	code, err := box.Run(j.ctx, template.Command{Shell: userScript, Env: env, User: "root", Workdir: "/", Timeout: userTimeout},
		func(stream, text string) {
			last.Add(text)
			j.log.output(stream, text)
		})
	j.log.endOutput()
	switch {
	case err != nil:
		return err
	case code == exitNoUseradd:
		return &refusal{text: fmt.Sprintf("there is no user %s, and the image has neither useradd nor adduser to make one", step.Name)}
	case code == exitNoSudo:
		return &refusal{text: "the image has no sudo; install it in an earlier step, on Debian with: apt-get update && apt-get install -y sudo"}
	case code != 0:
		return &refusal{text: fmt.Sprintf("making the user exited with code %d%s", code, &last)}
	}
	return nil
}
