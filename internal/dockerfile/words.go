package dockerfile

import (
	"errors"
	"path"
	"slices"
	"strings"
)

// variable is what the file knows of a variable that an ENV has set.
type variable struct {
	value string
	// open says that the value has parts that only the build knows.
	open bool
	line int // of the instruction that set it
}

// piece is a part of a word: text as it is, or a variable that only the build knows.
type piece struct {
	text string
	name string // "" for text
}

// word reads one word at the start of text, up to an unquoted blank, with quotes and backslashes taken away and
// variables replaced as Docker does. With whole set blanks don't end it.
func (p *parser) word(in instruction, text string, whole bool) (pieces []piece, rest string, err error) {
	var quote byte
	literal := func(s string) { pieces = append(pieces, piece{text: s}) }
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case quote == 0 && !whole && (c == ' ' || c == '\t'):
			return pieces, strings.TrimLeft(text[i:], " \t"), nil
		case quote == c:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			literal("") // "" is a word, too
		case c == '\\' && quote != '\'' && i+1 < len(text) && (quote == 0 || strings.IndexByte("\"$\\", text[i+1]) >= 0):
			literal(text[i+1 : i+2])
			i++
		case c == '$' && quote != '\'':
			found, size, err := p.variable(in, text[i:])
			if err != nil {
				return nil, "", err
			}
			pieces = append(pieces, found)
			i += size - 1
		default:
			literal(text[i : i+1])
		}
		i++
	}
	if quote != 0 {
		return nil, "", errors.New("a quote is not closed")
	}
	return pieces, "", nil
}

// variable reads $NAME or ${NAME} at the start of text; size is its length there.
func (p *parser) variable(in instruction, text string) (found piece, size int, err error) {
	var name string
	if strings.HasPrefix(text, "${") {
		end := strings.IndexByte(text, '}')
		if end < 0 {
			return found, 0, errors.New("a ${ is not closed")
		}
		name, size = text[2:end], end+1
		if !isName(name) {
			return found, 0, errors.New("${" + name + "} is not supported: only ${NAME} is")
		}
	} else {
		name = text[1:]
		if end := strings.IndexFunc(name, func(r rune) bool { return r > 127 || !isName("x"+string(r)) }); end >= 0 {
			name = name[:end]
		}
		size = 1 + len(name)
		if !isName(name) {
			return piece{text: "$"}, 1, nil
		}
	}
	v, known := p.vars[name]
	if known && v.line == in.line {
		return found, 0, errors.New("$" + name + " is set by the same ENV; use a second ENV for what depends on it")
	}
	if !known || v.open {
		return piece{name: name}, size, nil
	}
	return piece{text: v.value}, size, nil
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// value joins pieces: plain text when all is known, else text with ${NAME} and $$.
func value(pieces []piece) (text string, open bool) {
	open = slices.ContainsFunc(pieces, func(s piece) bool { return s.name != "" })
	var b strings.Builder
	for _, s := range pieces {
		switch {
		case s.name != "":
			b.WriteString("${" + s.name + "}")
		case open:
			b.WriteString(strings.ReplaceAll(s.text, "$", "$$"))
		default:
			b.WriteString(s.text)
		}
	}
	return b.String(), open
}

// expandWord is the text of an argument in which all variables must be known.
func (p *parser) expandWord(in instruction, arg string) (string, bool) {
	pieces, _, err := p.word(in, arg, true)
	if err != nil {
		p.fail(in, "%s: %v", in.name, err)
		return "", false
	}
	for _, s := range pieces {
		if s.name != "" {
			p.fail(in, "%s: $%s is not set by an ENV in this file, and what the image sets is not known here", in.name, s.name)
			return "", false
		}
	}
	text, _ := value(pieces)
	if text == "" {
		p.fail(in, "%s: the argument is empty", in.name)
		return "", false
	}
	return text, true
}

// parseEnv reads ENV KEY=VALUE…, or the older ENV KEY VALUE.
func (p *parser) parseEnv(in instruction) {
	key, _, found := strings.Cut(in.rest, "=")
	if blank := strings.IndexAny(in.rest, " \t"); !found || blank >= 0 && blank < len(key) {
		if blank < 0 {
			p.fail(in, "ENV %s has no value", in.rest)
			return
		}
		p.setEnv(in, in.rest[:blank], strings.TrimLeft(in.rest[blank:], " \t"), true)
		return
	}
	for rest := in.rest; rest != ""; {
		key, after, found := strings.Cut(rest, "=")
		if !found {
			p.fail(in, "ENV %s has no value; a value with blanks needs quotes", rest)
			return
		}
		var ok bool
		if rest, ok = p.setEnv(in, key, after, false); !ok {
			return
		}
	}
}

// setEnv takes one value from the start of text.
func (p *parser) setEnv(in instruction, key, text string, whole bool) (rest string, ok bool) {
	if !isName(key) {
		p.fail(in, "ENV: %q is not the name of a variable: letters, digits and _, not beginning with a digit", key)
		return "", false
	}
	pieces, rest, err := p.word(in, text, whole)
	if err != nil {
		p.fail(in, "ENV %s: %v", key, err)
		return "", false
	}
	text, open := value(pieces)
	p.vars[key] = variable{value: text, open: open, line: in.line}
	p.add(in, Step{Env: &Env{Key: key, Value: text, Expand: open}})
	return rest, true
}

// resolve makes a path clean, and absolute when the working directory is known.
func (p *parser) resolve(dir string) (string, error) {
	if !path.IsAbs(dir) && p.dir != "" {
		dir = path.Join(p.dir, dir)
	}
	dir = path.Clean(dir)
	if dir == ".." || strings.HasPrefix(dir, "../") {
		return "", errors.New("only the image knows what the directory above is; use an absolute path")
	}
	return dir, nil
}
