package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/sandbox"
)

const (
	// maxAdmitted is how many addresses a slot may have admitted; the gatekeeper holds fewer. What is above that is
	// elements that have expired and that the kernel has not removed yet.
	maxAdmitted = 8192
	// elementsPerMessage keeps a message of elements with comments below the 64 KiB that an attribute holds.
	elementsPerMessage = 128
	// maxComment is the longest comment of an element that the kernel keeps. The few names that are longer are not known
	// to a later process, and have to be looked up again.
	maxComment = 251
)

// names is the set of the addresses a slot was told for names it may reach. It is what a later process knows of them: an
// element's comment is the name.
func (r *ruleset) names(s Slot) *nftables.Set {
	return &nftables.Set{
		Table: r.table, ID: 8, Name: "names_" + strconv.Itoa(s.Index), KeyType: nftables.TypeIPAddr, HasTimeout: true, Size: maxAdmitted,
	}
}

// admissionElements leaves out what has expired. Of two admissions of an address the one that lasts longer counts.
func admissionElements(admissions []sandbox.Admission, now time.Time) []nftables.SetElement {
	longest := map[netip.Addr]sandbox.Admission{}
	for _, a := range admissions {
		if a.Addr.Is4() && a.Until.After(longest[a.Addr].Until) && a.Until.Sub(now) >= time.Millisecond {
			longest[a.Addr] = a
		}
	}
	elements := make([]nftables.SetElement, 0, len(longest))
	for addr, a := range longest {
		e := nftables.SetElement{Key: addr.AsSlice(), Timeout: a.Until.Sub(now)}
		if len(a.Name) <= maxComment {
			e.Comment = a.Name
		}
		elements = append(elements, e)
	}
	return elements
}

// addNames adds elements to a slot's names that are not in it.
func (r *ruleset) addNames(b *batch, s Slot, elements []nftables.SetElement) {
	for part := range slices.Chunk(elements, elementsPerMessage) {
		b.err = errors.Join(b.err, b.SetAddElements(r.names(s), part))
	}
}

// admit adds addresses to a slot's names, or gives those that are there another timeout. Not every kernel can change
// one, so they are removed first, and for that they have to be there: the batch is one step for the kernel.
func (r *ruleset) admit(s Slot, elements []nftables.SetElement) error {
	return r.commit("admitting addresses to a slot", func(b *batch) {
		r.addNames(b, s, elements)
		for part := range slices.Chunk(elements, elementsPerMessage) {
			keys := make([]nftables.SetElement, len(part))
			for i, e := range part {
				keys[i].Key = e.Key
			}
			b.err = errors.Join(b.err, b.SetDeleteElements(r.names(s), keys))
		}
		r.addNames(b, s, elements)
	})
}

// replaceNames gives a slot's names exactly these elements.
func (r *ruleset) replaceNames(s Slot, elements []nftables.SetElement) error {
	return r.commit("replacing the admitted addresses of a slot", func(b *batch) {
		b.FlushSet(r.names(s))
		r.addNames(b, s, elements)
	})
}

// admitted reads a slot's names.
func (r *ruleset) admitted(s Slot) ([]sandbox.Admission, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	elements, err := conn.GetSetElements(r.names(s))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the admitted addresses of slot %d: %w", s.Index, err)
	}
	now := time.Now()
	var all []sandbox.Admission
	for _, e := range elements {
		if addr, ok := netip.AddrFromSlice(e.Key); ok && e.Expires > 0 && e.Comment != "" {
			all = append(all, sandbox.Admission{Name: e.Comment, Addr: addr, Until: now.Add(e.Expires)})
		}
	}
	return all, nil
}
