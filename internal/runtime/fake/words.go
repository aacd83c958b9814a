package fake

import (
	"errors"
	"strings"
	"unicode"
)

// word is one word or operator of a command line.
type word struct {
	text     string
	operator bool
}

// split cuts a command line into words and operators, with variables put in.
func (p *process) split(text string) ([]word, error) {
	env := p.environment()
	var words []word
	var cur strings.Builder
	inWord := false
	flush := func() {
		if inWord {
			words = append(words, word{text: cur.String()})
		}
		cur.Reset()
		inWord = false
	}
	for text != "" {
		if op := leadingOperator(text); op != "" {
			flush()
			words = append(words, word{text: op, operator: true})
			text = text[len(op):]
			continue
		}
		c := text[0]
		if c == ' ' || c == '\t' || c == '\n' {
			flush()
			text = text[1:]
			continue
		}
		inWord = true
		used, value, err := fragment(text, env)
		if err != nil {
			return nil, err
		}
		cur.WriteString(value)
		text = text[used:]
	}
	flush()
	return words, nil
}

func leadingOperator(text string) string {
	for _, op := range []string{"&&", "||", ";", ">&2", ">>", ">"} {
		if strings.HasPrefix(text, op) {
			return op
		}
	}
	return ""
}

// fragment reads the part of a word text begins with: quoted text, a variable or one character.
func fragment(text string, env map[string]string) (used int, value string, err error) {
	switch c := text[0]; c {
	case '\'', '"':
		end := strings.IndexByte(text[1:], c)
		if end < 0 {
			return 0, "", errors.New("unterminated quote")
		}
		value = text[1 : 1+end]
		if c == '"' {
			value = expand(value, env)
		}
		return end + 2, value, nil
	case '$':
		n := 1 + nameLength(text[1:])
		return n, expand(text[:n], env), nil
	default:
		return 1, text[:1], nil
	}
}

// expand puts variables in.
func expand(text string, env map[string]string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		n := nameLength(after)
		if n == 0 {
			out.WriteByte('$')
		} else {
			out.WriteString(env[after[:n]])
		}
		text = after[n:]
	}
}

func nameLength(s string) int {
	n := strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	})
	if n < 0 {
		return len(s)
	}
	return n
}
