package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Domain is one domain entry of allow_out, in lower case and without a trailing dot.
type Domain struct {
	Name string
	// Wildcard: matches every name below Name at any depth, and not Name itself.
	Wildcard bool
}

// String is the entry as it would be written in allow_out.
func (d Domain) String() string {
	if d.Wildcard {
		return "*." + d.Name
	}
	return d.Name
}

// Match says whether name falls under d; case and one trailing dot do not matter.
func (d Domain) Match(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if !d.Wildcard {
		return name == d.Name
	}
	below, ok := strings.CutSuffix(name, "."+d.Name)
	return ok && below != ""
}

// The limits of RFC 1035.
const (
	maxDomain = 253
	maxLabel  = 63
)

// parseDomain reads a domain or *.domain, in any case, with or without a trailing dot, in Unicode or in ASCII form.
func parseDomain(entry string) (Domain, error) {
	// The three ideographic full stops that count as dots in domain names.
	name := strings.NewReplacer("。", ".", "．", ".", "｡", ".").Replace(entry)
	name, wildcard := strings.CutPrefix(name, "*.")
	name = strings.TrimSuffix(name, ".")
	labels := strings.Split(name, ".")
	if len(labels) < 2 && !wildcard {
		return Domain{}, errors.New("a domain has at least two parts")
	}
	for i, label := range labels {
		ascii, err := normalizeLabel(label)
		if err != nil {
			return Domain{}, err
		}
		labels[i] = ascii
	}
	if looksNumeric(labels[len(labels)-1]) {
		return Domain{}, errors.New("it is neither an address nor a domain")
	}
	name = strings.Join(labels, ".")
	if len(name) > maxDomain {
		return Domain{}, fmt.Errorf("a domain has at most %d characters", maxDomain)
	}
	return Domain{Name: name, Wildcard: wildcard}, nil
}

// normalizeLabel gives the lower-case ASCII form of one part of a domain.
func normalizeLabel(label string) (string, error) {
	if len(label) > 4*maxLabel { // before any work on it; a rune has at most four bytes
		return "", fmt.Errorf("a part of a domain has at most %d characters", maxLabel)
	}
	label = strings.ToLower(label)
	ascii := true
	for _, r := range label {
		if !validLabelRune(r) {
			return "", fmt.Errorf("the character %q cannot be in a domain", r)
		}
		ascii = ascii && r < unicode.MaxASCII
	}
	if !ascii {
		if strings.HasPrefix(label, "xn--") {
			return "", errors.New("a part of a domain is either in ASCII form or not")
		}
		label = "xn--" + punycode([]rune(label))
	}
	switch {
	case label == "":
		return "", errors.New("a part of the domain is empty")
	case len(label) > maxLabel:
		return "", fmt.Errorf("a part of a domain has at most %d characters", maxLabel)
	case label[0] == '-' || label[len(label)-1] == '-':
		return "", errors.New("a part of a domain neither starts nor ends with a hyphen")
	}
	return label, nil
}

// validLabelRune allows letters that are not ASCII capitals, digits, hyphen and underscore. Half- and full-width forms are refused: full IDNA
// would map them to other characters.
func validLabelRune(r rune) bool {
	switch {
	case r == unicode.ReplacementChar, r >= 0xff00 && r <= 0xffef:
		return false
	case r < unicode.MaxASCII:
		return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_'
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r)
}

// looksNumeric says whether resolvers would read a name with this last part as an old form of IPv4 address.
func looksNumeric(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// punycode encodes one label as RFC 3492 says, without the xn-- before it. It is here because the domain package
// imports the standard library only.
func punycode(in []rune) string {
	const initialN, initialBias = 128, 72
	var out []byte
	for _, r := range in {
		if r < initialN {
			out = append(out, byte(r))
		}
	}
	basic := len(out)
	if basic > 0 {
		out = append(out, '-')
	}
	n, delta, bias, done := rune(initialN), 0, initialBias, basic
	for done < len(in) {
		next := rune(unicode.MaxRune)
		for _, r := range in {
			if r >= n {
				next = min(next, r)
			}
		}
		delta += int(next-n) * (done + 1)
		n = next
		for _, r := range in {
			if r < n {
				delta++
			}
			if r == n {
				out = appendVarint(out, delta, bias)
				bias = adaptBias(delta, done+1, done == basic)
				delta = 0
				done++
			}
		}
		delta++
		n++
	}
	return string(out)
}

// The parameters of RFC 3492, section 5.
const (
	punyBase = 36
	punyTMin = 1
	punyTMax = 26
	punySkew = 38
	punyDamp = 700
)

func appendVarint(out []byte, q, bias int) []byte {
	const digits = "abcdefghijklmnopqrstuvwxyz0123456789"
	for k := punyBase; ; k += punyBase {
		t := min(max(k-bias, punyTMin), punyTMax)
		if q < t {
			return append(out, digits[q])
		}
		out = append(out, digits[t+(q-t)%(punyBase-t)])
		q = (q - t) / (punyBase - t)
	}
}

func adaptBias(delta, points int, first bool) int {
	if first {
		delta /= punyDamp
	} else {
		delta /= 2
	}
	delta += delta / points
	k := 0
	for delta > (punyBase-punyTMin)*punyTMax/2 {
		delta /= punyBase - punyTMin
		k += punyBase
	}
	return k + (punyBase-punyTMin+1)*delta/(delta+punySkew)
}
