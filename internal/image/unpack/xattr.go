package unpack

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrPrefix is that of the PAX records that hold extended attributes.
const xattrPrefix = "SCHILY.xattr."

// keepsXattr says whether an attribute gets into the image. trusted.* would be a command to the host's overlay file
// system, and labels such as security.selinux belong to the machine they were made on.
func keepsXattr(name string) bool {
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

// xattrs returns the attributes of an entry that are kept, in no order.
func xattrs(entry string, records map[string]string, limit int) (map[string]string, error) {
	var kept map[string]string
	size := 0
	for record, value := range records {
		name, ok := strings.CutPrefix(record, xattrPrefix)
		if !ok || !keepsXattr(name) {
			continue
		}
		if len(name) > maxName || strings.ContainsRune(name, 0) {
			return nil, unsafe(entry, "it has an extended attribute with an impossible name")
		}
		if size += len(name) + len(value); size > limit {
			return nil, tooLarge(entry, "its extended attributes have more than %d bytes", limit)
		}
		if kept == nil {
			kept = map[string]string{}
		}
		kept[name] = value
	}
	return kept, nil
}

// setXattrs sets attributes on an open file or directory. What the file system of the host can't keep at all is left
// out.
func setXattrs(entry string, fd int, attrs map[string]string) error {
	for name, value := range attrs {
		err := unix.Fsetxattr(fd, name, []byte(value), 0)
		switch {
		case err == nil, errors.Is(err, unix.EOPNOTSUPP):
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ERANGE):
			return tooLarge(entry, "the server's file system can't hold its extended attribute %s of %d bytes", Quote(name), len(value))
		case errors.Is(err, unix.EINVAL):
			return unsafe(entry, "its extended attribute %s is not valid", Quote(name))
		default:
			return err
		}
	}
	return nil
}

// clearXattrs removes what setXattrs can have set before.
func clearXattrs(fd int) error {
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		return err
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(fd, list); err != nil {
		return err
	}
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if !keepsXattr(name) {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return err
		}
	}
	return nil
}
