package dockerfile

import (
	"path"
	"strings"
)

// parseCopy reads COPY and ADD.
func (p *parser) parseCopy(in instruction) {
	c := &Copy{Add: in.name == "ADD"}
	rest, ok := p.copyFlags(in, c)
	if !ok || p.hereDocument(instruction{line: in.line, name: in.name, rest: rest}) {
		return
	}
	words, ok := p.copyWords(in, rest)
	if !ok {
		return
	}
	if len(words) < 2 {
		p.fail(in, "%s takes at least a source and a destination", in.name)
		return
	}
	last := len(words) - 1
	for _, src := range words[:last] {
		clean, problem := cleanSource(src, c.Add)
		if problem != "" {
			p.fail(in, "%s %s: %s", in.name, src, problem)
			return
		}
		c.Sources = append(c.Sources, clean)
	}
	dst, err := p.resolve(words[last])
	if err != nil {
		p.fail(in, "%s to %s: %v", in.name, words[last], err)
		return
	}
	if directory := strings.HasSuffix(words[last], "/") || words[last] == "." || strings.HasSuffix(words[last], "/."); directory && dst != "/" {
		dst += "/"
	}
	if len(words) > 2 && !strings.HasSuffix(dst, "/") {
		p.fail(in, "%s of several sources: the destination must end in a slash", in.name)
		return
	}
	c.Dst = dst
	p.add(in, Step{Copy: c})
}

// copyFlags takes the flags off. Only --chown is supported.
func (p *parser) copyFlags(in instruction, c *Copy) (rest string, ok bool) {
	rest = in.rest
	for strings.HasPrefix(rest, "--") {
		flag, after, _ := strings.Cut(strings.ReplaceAll(rest, "\t", " "), " ")
		name, owner, _ := strings.Cut(flag, "=")
		if name != "--chown" {
			p.fail(in, "%s %s is not supported", in.name, name)
			return "", false
		}
		if c.Chown, ok = p.expandWord(in, owner); !ok {
			return "", false
		}
		rest = strings.TrimSpace(after)
	}
	return rest, true
}

func (p *parser) copyWords(in instruction, rest string) (words []string, ok bool) {
	if listed, isJSON := jsonWords(rest); isJSON {
		return listed, true
	}
	for rest != "" {
		pieces, after, err := p.word(in, rest, false)
		if err != nil {
			p.fail(in, "%s: %v", in.name, err)
			return nil, false
		}
		for _, s := range pieces {
			if s.name != "" {
				p.fail(in, "%s: $%s is not set by an ENV in this file, and what the image sets is not known here", in.name, s.name)
				return nil, false
			}
		}
		text, _ := value(pieces)
		words, rest = append(words, text), after
	}
	return words, true
}

// cleanSource makes a source relative to the context, where an absolute one begins too.
func cleanSource(src string, add bool) (clean, problem string) {
	if add && (strings.Contains(src, "://") || strings.HasPrefix(src, "git@")) {
		return "", "only files of the build context can be added; use RUN with curl or git"
	}
	clean = strings.TrimPrefix(path.Clean("/"+src), "/")
	if up := path.Clean(strings.TrimLeft(src, "/")); up == ".." || strings.HasPrefix(up, "../") {
		return "", "it is outside of the build context"
	}
	if src == "" {
		return "", "a source is empty"
	}
	if clean == "" {
		clean = "."
	}
	if _, err := path.Match(clean, "x"); err != nil {
		return "", "the pattern is not valid"
	}
	return clean, ""
}
