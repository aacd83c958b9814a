package image

import (
	"fmt"
	"strconv"
	"strings"
)

// Progress says how far a build is.
type Progress struct {
	// Step is what is being done now, for people, such as "downloading packages".
	Step string
	// Done of Total within the step; Total is 0 when the step has no count, or one without a known end.
	Done, Total int
	// Bytes says that Done and Total are bytes.
	Bytes bool
}

// String is the progress for people: "downloading packages, 3 of 310".
func (p Progress) String() string {
	switch {
	case p.Total == 0:
		return p.Step
	case p.Bytes:
		return fmt.Sprintf("%s, %d of %d MiB", p.Step, p.Done>>20, p.Total>>20)
	}
	return fmt.Sprintf("%s, %d of %d", p.Step, p.Done, p.Total)
}

// The steps that are ours; the others come from phases.
const (
	stepBootstrap = "starting mmdebstrap"
	stepFix       = "preparing the root file system"
	stepCerts     = "adding CA certificates"
	stepScript    = "running the template's script"
	stepPack      = "packing the image"
	stepCommit    = "storing the image"
	stepWait      = "waiting for another build"
	stepResolve   = "asking the registry"
	stepDownload  = "downloading layers"
	stepUnpack    = "unpacking"
)

// debootstrapProgress follows the output of mmdebstrap --verbose: its own "I:" lines name the phase, and the lines of
// apt and dpkg in between are counted.
type debootstrapProgress struct {
	now    Progress
	report func(Progress)
}

// phases maps the beginning of mmdebstrap's "I:" lines to a step.
func phases() [][2]string {
	return [][2]string{
		{"running apt-get update", "fetching package lists"},
		{"downloading packages", "downloading packages"},
		{"extracting archives", "extracting packages"},
		{"installing essential packages", "installing essential packages"},
		{"installing remaining packages", "installing packages"},
		{"cleaning package lists", "cleaning up"},
	}
}

// line takes one line of output.
func (p *debootstrapProgress) line(line string) {
	before := p.now
	if phase, ok := strings.CutPrefix(line, "I: "); ok {
		for _, known := range phases() {
			if strings.HasPrefix(phase, known[0]) {
				p.now = Progress{Step: known[1]}
			}
		}
	} else if n, ok := newlyInstalled(line); ok {
		p.now.Done, p.now.Total = 0, n
		if p.now.Step == "installing packages" {
			p.now.Total = 3 * n // each is fetched, unpacked and set up
		}
	} else if p.now.Total > 0 && p.counts(line) {
		p.now.Done = min(p.now.Done+1, p.now.Total)
	}
	if p.now != before && p.report != nil {
		p.report(p.now)
	}
}

// counts says whether the line reports one unit of the step's work.
func (p *debootstrapProgress) counts(line string) bool {
	if strings.HasPrefix(line, "Get:") {
		return true
	}
	return p.now.Step == "installing packages" &&
		(strings.HasPrefix(line, "Unpacking ") || strings.HasPrefix(line, "Setting up "))
}

// newlyInstalled reads apt's "0 upgraded, 45 newly installed, …".
func newlyInstalled(line string) (int, bool) {
	before, _, ok := strings.Cut(line, " newly installed")
	if !ok {
		return 0, false
	}
	_, number, ok := strings.Cut(before, ", ")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(number)
	return n, err == nil && n > 0 && n < 100000
}
