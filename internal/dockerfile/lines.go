package dockerfile

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// instruction is one instruction with its continuation lines joined.
type instruction struct {
	line int    // where it begins, from 1
	name string // in upper case
	rest string
}

// instructions splits the text. Comment lines and empty lines are left out, also between continuation lines.
func instructions(text string) ([]instruction, error) {
	var all []instruction
	var current *instruction
	directives := true
	for i, line := range strings.Split(strings.TrimPrefix(text, "\uFEFF"), "\n") {
		line = strings.TrimRight(line, "\r")
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "#") {
			if err := checkDirective(i+1, trimmed, directives); err != nil {
				return nil, err
			}
			continue
		}
		directives = false
		if trimmed == "" {
			continue
		}
		part, goesOn := cutContinuation(line)
		if current == nil {
			part = strings.TrimLeft(part, " \t")
			name, _, _ := strings.Cut(strings.ReplaceAll(part, "\t", " "), " ")
			all = append(all, instruction{line: i + 1, name: strings.ToUpper(name), rest: part[len(name):]})
			current = &all[len(all)-1]
		} else {
			current.rest += part
		}
		if !goesOn {
			current = nil
		}
	}
	for i := range all {
		all[i].rest = strings.TrimSpace(all[i].rest)
		if strings.ContainsRune(all[i].rest, 0) {
			return nil, &Error{Line: all[i].line, Text: "there is a NUL character"}
		}
		if len(all[i].name) > 20 {
			all[i].name = all[i].name[:20] + "…"
		}
	}
	return all, nil
}

// cutContinuation takes the backslash off a line that goes on in the next.
func cutContinuation(line string) (part string, goesOn bool) {
	return strings.CutSuffix(strings.TrimRight(line, " \t"), `\`)
}

var escapeDirective = regexp.MustCompile(`(?i)^#\s*escape\s*=\s*(\S+)`)

// checkDirective refuses another escape character than the backslash; other directives change nothing here.
func checkDirective(line int, comment string, atTop bool) error {
	m := escapeDirective.FindStringSubmatch(comment)
	if !atTop || m == nil || m[1] == `\` {
		return nil
	}
	return &Error{Line: line, Text: fmt.Sprintf("the escape character %s is not supported; use a backslash", m[1])}
}

// jsonWords reads the JSON form of a command. Anything that is no JSON array of strings is the shell form, as in Docker.
func jsonWords(rest string) (words []string, ok bool) {
	if !strings.HasPrefix(rest, "[") {
		return nil, false
	}
	ok = json.Unmarshal([]byte(rest), &words) == nil && words != nil
	return words, ok
}

// shellCommand is a command of the JSON form for a shell, which it replaces.
func shellCommand(words []string) string {
	if len(words) == 0 {
		return ""
	}
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quoteForShell(w)
	}
	return "exec " + strings.Join(quoted, " ")
}

func quoteForShell(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@%+,"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

var hereDocument = regexp.MustCompile(`(^|\s)\d*<<-?["']?[A-Za-z_]`)

// hereDocument refuses an instruction whose text would go on below it until a marker.
func (p *parser) hereDocument(in instruction) bool {
	if !hereDocument.MatchString(in.rest) {
		return false
	}
	p.fail(in, "%s with a here-document (<<) is not supported: use a COPY, or one command per line with backslashes", in.name)
	return true
}
