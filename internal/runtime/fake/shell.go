package fake

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/superserve/superserve/internal/guestapi"
	"github.com/superserve/superserve/internal/runtime/runtimetest"
)

// process runs one exec request. Its shell knows quotes, $NAME, ; && || and the redirections > >> and >&2, and the
// commands below; nothing else of sh.
type process struct {
	machine        *machine
	ctx            context.Context
	req            guestapi.ExecRequest
	stdout, stderr io.Writer
}

const (
	exitTimeout  = 124
	exitNotFound = 127
	exitKilled   = 137
)

// errExit ends a command line before its end.
type errExit int

func (e errExit) Error() string { return "exit " + strconv.Itoa(int(e)) }

// run runs the request and returns its exit code.
func (p *process) run() int {
	code, err := p.dispatch()
	if exit, ok := errors.AsType[errExit](err); ok {
		return int(exit)
	}
	switch {
	case err == nil:
		return code
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	default:
		return exitKilled
	}
}

func (p *process) dispatch() (int, error) {
	if p.req.Args != nil {
		return p.command(append([]string{p.req.Command}, p.req.Args...), p.stdout)
	}
	switch p.req.Command {
	case runtimetest.CounterCommand:
		p.machine.startCounter()
		return 0, nil
	case runtimetest.ReadCounterCommand:
		return p.command([]string{"cat", countFile}, p.stdout)
	case runtimetest.RandomCommand:
		var b [16]byte
		rand.Read(b[:]) // never fails
		_, err := fmt.Fprintf(p.stdout, "% x\n", b)
		return 0, err
	}
	return p.line(p.req.Command)
}

// line runs simple commands joined by ; && and ||.
func (p *process) line(text string) (code int, err error) {
	words, err := p.split(text)
	if err != nil {
		fmt.Fprintf(p.stderr, "sh: %v\n", err)
		return 2, nil
	}
	for skip := false; len(words) > 0; {
		end := slices.IndexFunc(words, func(w word) bool { return w.operator && isJoin(w.text) })
		simple, join := words, ";"
		if end >= 0 {
			simple, join, words = words[:end], words[end].text, words[end+1:]
		} else {
			words = nil
		}
		if !skip && len(simple) > 0 {
			if code, err = p.simple(simple); err != nil {
				return code, err
			}
		}
		skip = join == "&&" && code != 0 || join == "||" && code == 0
	}
	return code, nil
}

func isJoin(s string) bool { return s == ";" || s == "&&" || s == "||" }

// simple runs one command with its redirections.
func (p *process) simple(words []word) (int, error) {
	var argv []string
	out, target, add := p.stdout, "", false
	for i := 0; i < len(words); i++ {
		switch w := words[i]; {
		case !w.operator:
			argv = append(argv, w.text)
		case w.text == ">&2":
			out = p.stderr
		case i+1 < len(words) && !words[i+1].operator:
			i++
			target, add = words[i].text, w.text == ">>"
		default:
			fmt.Fprintln(p.stderr, "sh: a redirection without a file")
			return 2, nil
		}
	}
	if len(argv) == 0 {
		return 0, nil
	}
	if target == "" {
		return p.command(argv, out)
	}
	var file strings.Builder
	code, err := p.command(argv, &file)
	if err == nil && target != "/dev/null" {
		p.machine.writeFile(target, []byte(file.String()), add)
	}
	return code, err
}

// command runs one of the commands there are.
func (p *process) command(argv []string, out io.Writer) (int, error) {
	if err := p.machine.step(p.ctx); err != nil {
		return 0, err
	}
	args := argv[1:]
	switch argv[0] {
	case "true", "mkdir":
		return 0, nil
	case "false":
		return 1, nil
	case "echo":
		_, err := fmt.Fprintln(out, strings.Join(args, " "))
		return 0, err
	case "hostname":
		_, err := fmt.Fprintln(out, p.machine.snapshot().Hostname)
		return 0, err
	case "whoami":
		_, err := fmt.Fprintln(out, p.user())
		return 0, err
	case "env":
		return p.printEnv(out)
	case "date":
		_, err := fmt.Fprintln(out, time.Now().Unix())
		return 0, err
	case "exit":
		return p.exit(args)
	case "cat":
		return p.cat(args, out)
	case "rm":
		return p.remove(args)
	case "sleep":
		return p.sleep(args)
	case "hog":
		return p.hog(args)
	case "tail": // only runtimetest's way of using all memory
		p.machine.use(p.machine.memoryLimit())
		return exitKilled, nil
	case "kill": // only "kill -9 1"
		p.machine.end()
		return 0, errExit(exitKilled)
	}
	fmt.Fprintf(p.stderr, "sh: %s: not found\n", argv[0])
	return exitNotFound, nil
}

func (p *process) user() string {
	if p.req.User != "" {
		return p.req.User
	}
	return p.machine.snapshot().User
}

func (p *process) environment() map[string]string {
	env := map[string]string{"USER": p.user(), "HOME": "/root", "LANG": "C.UTF-8"}
	maps.Copy(env, p.machine.snapshot().Env)
	maps.Copy(env, p.req.Env)
	return env
}

func (p *process) printEnv(out io.Writer) (int, error) {
	env := p.environment()
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if _, err := fmt.Fprintf(out, "%s=%s\n", name, env[name]); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (p *process) exit(args []string) (int, error) {
	if len(args) == 0 {
		return 0, errExit(0)
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		n = 2
	}
	return 0, errExit(n & 255)
}

func (p *process) cat(args []string, out io.Writer) (int, error) {
	code := 0
	for _, name := range args {
		data, ok := p.machine.readFile(name)
		if !ok {
			fmt.Fprintf(p.stderr, "cat: %s: No such file or directory\n", name)
			code = 1
			continue
		}
		if _, err := out.Write(data); err != nil {
			return 0, err
		}
	}
	return code, nil
}

func (p *process) remove(args []string) (int, error) {
	code := 0
	for _, name := range args {
		if !strings.HasPrefix(name, "-") && !p.machine.removeFile(name) {
			fmt.Fprintf(p.stderr, "rm: %s: No such file or directory\n", name)
			code = 1
		}
	}
	return code, nil
}

func (p *process) sleep(args []string) (int, error) {
	seconds, err := strconv.ParseFloat(strings.Join(args, ""), 64)
	if err != nil {
		fmt.Fprintln(p.stderr, "sleep: no number of seconds")
		return 1, nil
	}
	select {
	case <-time.After(time.Duration(seconds * float64(time.Second))):
		return 0, p.machine.step(p.ctx)
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	case <-p.machine.done:
		return exitKilled, nil
	}
}

// hog N: a process in the background takes N MiB of memory until it is killed.
func (p *process) hog(args []string) (int, error) {
	mib, err := strconv.ParseInt(strings.Join(args, ""), 10, 32)
	if err != nil || mib < 0 {
		fmt.Fprintln(p.stderr, "hog: no number of MiB")
		return 1, nil
	}
	p.machine.use(mib << 20)
	return 0, nil
}
