package guest

import (
	"bufio"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	passwdPath = "/etc/passwd"
	groupPath  = "/etc/group"
	// maxUserFile bounds how much of either file is read: the sandbox's root writes them.
	maxUserFile = 4 << 20
)

// account is a user of the sandbox.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32 // supplementary, gid not among them
	home     string
	shell    string
}

// lookupUser finds the user of "user" or "user:group", each a name or else a number; "" is root. A group that is named
// takes the place of all the user's own. A number need not be in the files: images name such users.
func lookupUser(spec string) (*account, error) { return lookup(spec, unlisted) }

// lookupListed is lookupUser for a call of a client, where a number that is in no file is more likely a mistake.
func lookupListed(spec string) (*account, error) {
	return lookup(spec, func(name string) (*account, error) {
		if name == "root" || name == "0" {
			return unlisted(name)
		}
		return nil, badRequest("user %q is unknown", name)
	})
}

// lookup finds a user; one that is in no file is other's to make.
func lookup(spec string, other func(name string) (*account, error)) (*account, error) {
	name, groupName, hasGroup := strings.Cut(spec, ":")
	a, err := lookupName(name, other)
	if err != nil || !hasGroup {
		return a, err
	}
	gid, ok := lookupGroup(groupName)
	if !ok {
		return nil, badRequest("group %q is unknown", groupName)
	}
	a.gid, a.groups = gid, nil
	return a, nil
}

func lookupName(nameOrUID string, other func(string) (*account, error)) (*account, error) {
	if nameOrUID == "" {
		nameOrUID = "root"
	}
	passwd, err := os.Open(passwdPath)
	if err != nil {
		return other(nameOrUID)
	}
	defer closeRead(passwd)
	a := findAccount(passwd, nameOrUID)
	if a == nil {
		return other(nameOrUID)
	}
	group, err := os.Open(groupPath)
	if err != nil {
		return a, nil // no groups file, no groups
	}
	defer closeRead(group)
	a.groups = findGroups(group, a.name, a.gid)
	return a, nil
}

// unlisted is a user that no file names: root, which every image has, or a number.
func unlisted(nameOrUID string) (*account, error) {
	if nameOrUID == "root" || nameOrUID == "0" {
		return &account{name: "root", home: "/root", shell: shellPath}, nil
	}
	uid, err := strconv.ParseUint(nameOrUID, 10, 31)
	if err != nil {
		return nil, badRequest("user %q is unknown", nameOrUID)
	}
	return &account{name: nameOrUID, uid: uint32(uid), home: "/", shell: shellPath}, nil
}

// lookupGroup finds a group by name, then by number, which need not be in the file.
func lookupGroup(nameOrGID string) (gid uint32, ok bool) {
	if group, err := os.Open(groupPath); err == nil {
		defer closeRead(group)
		lines := bufio.NewScanner(io.LimitReader(group, maxUserFile))
		for lines.Scan() {
			f := strings.Split(lines.Text(), ":")
			if len(f) != 4 || f[0] != nameOrGID || f[0] == "" {
				continue
			}
			if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
				return uint32(id), true
			}
		}
	}
	id, err := strconv.ParseUint(nameOrGID, 10, 31)
	return uint32(id), err == nil
}

// findAccount reads a passwd file; nil when no line fits. A name wins over a number.
func findAccount(passwd io.Reader, nameOrUID string) *account {
	var byNumber *account
	lines := bufio.NewScanner(io.LimitReader(passwd, maxUserFile))
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) != 7 || f[0] == "" {
			continue
		}
		uid, err1 := strconv.ParseUint(f[2], 10, 32)
		gid, err2 := strconv.ParseUint(f[3], 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		a := &account{name: f[0], uid: uint32(uid), gid: uint32(gid), home: f[5], shell: f[6]}
		if a.home == "" {
			a.home = "/"
		}
		if a.shell == "" {
			a.shell = shellPath
		}
		if a.name == nameOrUID {
			return a
		}
		if byNumber == nil && f[2] == nameOrUID {
			byNumber = a
		}
	}
	return byNumber
}

// findGroups reads a group file for the groups that name a user as a member.
func findGroups(group io.Reader, user string, primary uint32) []uint32 {
	var groups []uint32
	lines := bufio.NewScanner(io.LimitReader(group, maxUserFile))
	for lines.Scan() {
		f := strings.Split(lines.Text(), ":")
		if len(f) != 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			continue
		}
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		if id := uint32(gid); id != primary && !slices.Contains(groups, id) {
			groups = append(groups, id)
		}
	}
	return groups
}

// mayEnter says whether the user may change into dir: search permission on it and on all directories above. It only
// explains an EACCES afterwards; the kernel has decided already.
func (a *account) mayEnter(dir string) bool {
	if a.uid == 0 {
		return true
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || !a.maySearch(info) {
			return false
		}
		if dir == "/" {
			return true
		}
		dir = path.Dir(dir)
	}
}

// maySearch judges one directory by its mode bits.
func (a *account) maySearch(dir os.FileInfo) bool {
	st, ok := dir.Sys().(*syscall.Stat_t)
	if !ok {
		return false
	}
	switch {
	case st.Uid == a.uid:
		return st.Mode&0o100 != 0
	case st.Gid == a.gid || slices.Contains(a.groups, st.Gid):
		return st.Mode&0o010 != 0
	}
	return st.Mode&0o001 != 0
}

// owner is whom the files that boxd makes belong to.
type owner struct {
	uid, gid int
}

// fileOwner is the default user of Init. Files stay root's when that is root or does not exist.
func (s *Server) fileOwner() owner {
	a, err := lookupUser(s.identity.Load().user)
	if err != nil {
		return owner{}
	}
	return owner{uid: int(a.uid), gid: int(a.gid)}
}

// give makes path, which boxd has just made, the owner's.
func (o owner) give(path string) error {
	if o.uid == 0 {
		return nil
	}
	return os.Lchown(path, o.uid, o.gid)
}
