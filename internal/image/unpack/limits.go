package unpack

import (
	"fmt"
	"strings"
)

// Limits bound what is unpacked by one Unpacker, all its layers together. Zero means the default.
type Limits struct {
	// Bytes is how many bytes the decompressed layers may have; it is also how many bytes their files may have, which is
	// more when files have holes. Default 16 GiB.
	Bytes int64
	// Entries is how many entries the layers may have, with the directories that are made because an entry's path needs
	// them. Default 2,000,000.
	Entries int
	// PathBytes is how long a path may be, before and after links in it are followed, and the target of a link. Default
	// 2048, since mkfs.erofs puts the host's directory before it and the kernel ends at 4096.
	PathBytes int
	// XattrBytes is how large the extended attributes of one entry may be, names and values together. Default 16 KiB.
	XattrBytes int
}

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = 16 << 30
	}
	if l.Entries == 0 {
		l.Entries = 2_000_000
	}
	if l.PathBytes == 0 {
		l.PathBytes = 2048
	}
	if l.XattrBytes == 0 {
		l.XattrBytes = 16 << 10
	}
	return l
}

// maxName is the kernel's limit for one component of a path, in bytes.
const maxName = 255

// UnsafeError refuses an archive that tries what no honest one does, or that is damaged.
type UnsafeError struct {
	Entry  string // the name of the entry; empty when it is about the whole
	Reason string
}

// Error names the entry.
func (e *UnsafeError) Error() string { return about(e.Entry, e.Reason) }

// TooLargeError refuses an archive that goes over one of the Limits.
type TooLargeError struct {
	Entry  string // the name of the entry; empty when it is about the whole
	Reason string
}

// Error names the entry and the limit.
func (e *TooLargeError) Error() string { return about(e.Entry, e.Reason) }

func about(entry, reason string) string {
	if entry == "" {
		return reason
	}
	return Quote(entry) + ": " + reason
}

// Quote makes a name from an archive safe to show: quoted when it has anything but plain characters, and cut when it is
// long.
func Quote(name string) string {
	const most = 120
	if len(name) > most {
		name = name[:most] + "…"
	}
	if quoted := fmt.Sprintf("%q", name); strings.ContainsAny(name, " :") || quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

func unsafe(entry, format string, args ...any) error {
	return &UnsafeError{Entry: entry, Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(entry, format string, args ...any) error {
	return &TooLargeError{Entry: entry, Reason: fmt.Sprintf(format, args...)}
}
