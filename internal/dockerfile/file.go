package dockerfile

import (
	"errors"
	"fmt"
	"strings"
)

// File is what a Dockerfile says.
type File struct {
	// From is the image reference of FROM.
	From  string
	Steps []Step
	// StartCmd is ENTRYPOINT and CMD as one shell command; "" without them.
	StartCmd string
}

// Step is one instruction, or one variable of an ENV; exactly one of its parts is set.
type Step struct {
	Line    int // of the file, from 1
	Run     string
	Workdir string
	User    string
	Env     *Env
	Copy    *Copy
}

// Env is one variable.
type Env struct {
	Key, Value string
	// Expand says that Value has variables which only the build knows, as ${NAME}, and dollar signs as $$.
	Expand bool
}

// Copy is a COPY or an ADD.
type Copy struct {
	// Sources are paths in the build context, relative and clean, with the wildcards of path.Match.
	Sources []string
	Dst     string
	Chown   string
	// Add tells ADD, which unpacks archives: that is not supported, so its sources must not be any.
	Add bool
}

// Error is a problem in one line.
type Error struct {
	Line int
	Text string
}

// Error says where it is.
func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

const (
	// MaxSize is the largest Dockerfile, in bytes.
	MaxSize = 1 << 20
	// maxErrors is how many problems are told at once.
	maxErrors = 20
)

// Parse reads a Dockerfile. Its error joins one *Error for each problem.
func Parse(text string) (*File, error) {
	if len(text) > MaxSize {
		return nil, &Error{Line: 1, Text: fmt.Sprintf("the file has %d bytes, more than %d", len(text), MaxSize)}
	}
	lines, err := instructions(text)
	if err != nil {
		return nil, err
	}
	p := &parser{vars: map[string]variable{}}
	for _, in := range lines {
		p.instruction(in)
	}
	if p.from == nil && len(p.errs) == 0 {
		p.errs = append(p.errs, &Error{Line: 1, Text: "there is no FROM"})
	}
	if len(p.errs) > maxErrors {
		p.errs = append(p.errs[:maxErrors], fmt.Errorf("and %d more problems", len(p.errs)-maxErrors))
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	p.file.StartCmd = p.startCmd()
	return &p.file, nil
}

// parser holds what earlier instructions have said.
type parser struct {
	file File
	errs []error
	from *instruction
	vars map[string]variable
	// dir is the working directory, "" while only the image knows it.
	dir             string
	entrypoint, cmd *command
}

// command is a CMD or an ENTRYPOINT.
type command struct {
	shell string
	words []string // of the JSON form; nil for the shell form
}

func (p *parser) fail(in instruction, format string, args ...any) {
	p.errs = append(p.errs, &Error{Line: in.line, Text: fmt.Sprintf(format, args...)})
}

func (p *parser) add(in instruction, s Step) {
	s.Line = in.line
	p.file.Steps = append(p.file.Steps, s)
}

func (p *parser) instruction(in instruction) {
	handlers := map[string]func(instruction){
		"FROM": p.parseFrom, "RUN": p.parseRun, "ENV": p.parseEnv, "WORKDIR": p.parseWorkdir, "USER": p.parseUser,
		"COPY": p.parseCopy, "ADD": p.parseCopy, "CMD": p.parseCommand, "ENTRYPOINT": p.parseCommand,
	}
	handler, ok := handlers[in.name]
	switch {
	case !ok:
		p.fail(in, "%s is not supported%s", in.name, advice(in.name))
	case p.from == nil && in.name != "FROM":
		p.fail(in, "%s before FROM", in.name)
	case in.rest == "":
		p.fail(in, "%s without anything after it", in.name)
	default:
		handler(in)
	}
}

// advice says what to do instead of an instruction that is not supported.
func advice(name string) string {
	switch name {
	case "ARG":
		return ": use ENV, or write the value where it is used"
	case "HEALTHCHECK":
		return ": give its command as the template's ready_cmd (--ready-cmd)"
	case "EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL", "VOLUME":
		return ": it has no meaning for a template; remove it"
	case "SHELL":
		return ": commands run in /bin/sh; name the other shell in each RUN"
	case "ONBUILD":
		return ""
	}
	return ": known are FROM, RUN, ENV, WORKDIR, USER, COPY, ADD, CMD and ENTRYPOINT"
}

func (p *parser) parseFrom(in instruction) {
	if p.from != nil {
		p.fail(in, "a second FROM: builds of several stages are not supported")
		return
	}
	p.from = &in
	words := strings.Fields(in.rest)
	if flag, ok := firstFlag(words); ok {
		p.fail(in, "FROM %s is not supported: the image is taken for the server's platform", flag)
		return
	}
	if len(words) != 1 && (len(words) != 3 || !strings.EqualFold(words[1], "AS")) {
		p.fail(in, "FROM takes one image, and may be followed by AS and a name")
		return
	}
	switch ref := words[0]; {
	case strings.Contains(ref, "$"):
		p.fail(in, "FROM %s: variables are not supported here", ref)
	case ref == "scratch":
		p.fail(in, "FROM scratch is not supported: a template needs a file system to begin with")
	default:
		p.file.From = ref
	}
}

func firstFlag(words []string) (string, bool) {
	if len(words) > 0 && strings.HasPrefix(words[0], "--") {
		name, _, _ := strings.Cut(words[0], "=")
		return name, true
	}
	return "", false
}

func (p *parser) parseRun(in instruction) {
	if flag, ok := firstFlag(strings.Fields(in.rest)); ok {
		p.fail(in, "RUN %s is not supported", flag)
		return
	}
	if p.hereDocument(in) {
		return
	}
	command := in.rest
	if words, ok := jsonWords(in.rest); ok {
		if len(words) == 0 {
			p.fail(in, "RUN without a command")
			return
		}
		command = shellCommand(words)
	}
	p.add(in, Step{Run: command})
}

func (p *parser) parseWorkdir(in instruction) {
	dir, ok := p.expandWord(in, strings.TrimSpace(in.rest))
	if !ok {
		return
	}
	dir, err := p.resolve(dir)
	if err != nil {
		p.fail(in, "WORKDIR %s: %v", in.rest, err)
		return
	}
	if strings.HasPrefix(dir, "/") {
		p.dir = dir
	}
	p.add(in, Step{Workdir: dir})
}

func (p *parser) parseUser(in instruction) {
	user, ok := p.expandWord(in, strings.TrimSpace(in.rest))
	if !ok {
		return
	}
	name, group, grouped := strings.Cut(user, ":")
	if grouped && group != name {
		p.fail(in, "USER %s: a group other than the user's own is not supported", user)
		return
	}
	if name == "" || strings.ContainsAny(name, " \t") {
		p.fail(in, "USER takes one name")
		return
	}
	p.add(in, Step{User: name})
}

func (p *parser) parseCommand(in instruction) {
	if p.hereDocument(in) {
		return
	}
	c := &command{shell: in.rest}
	if words, ok := jsonWords(in.rest); ok {
		c = &command{words: words}
	}
	if in.name == "CMD" {
		p.cmd = c
		return
	}
	p.entrypoint = c
}

// startCmd joins ENTRYPOINT and CMD as Docker does: an entry point in the shell form ignores CMD.
func (p *parser) startCmd() string {
	cmd, entrypoint := p.cmd, p.entrypoint
	switch {
	case entrypoint == nil || entrypoint.shell == "" && len(entrypoint.words) == 0:
		return cmd.text()
	case entrypoint.shell != "" || cmd == nil:
		return entrypoint.text()
	case cmd.shell != "":
		return shellCommand(append(entrypoint.words, "/bin/sh", "-c", cmd.shell))
	}
	return shellCommand(append(entrypoint.words, cmd.words...))
}

func (c *command) text() string {
	switch {
	case c == nil:
		return ""
	case c.shell != "":
		return c.shell
	}
	return shellCommand(c.words)
}
