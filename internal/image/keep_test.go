package image

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/superserve/superserve/internal/image/registrytest"
)

// What the unpacker keeps reaches the image, up to the unpacker's limits.
func TestImageKeepsAttributes(t *testing.T) {
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	ping := registrytest.Program("bin/ping", "p")
	ping.Mode = 0o4755
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": strings.Repeat("n", 3000)}
	hard := registrytest.Symlink("bin/ping2", "bin/ping")
	hard.Typeflag = '1'
	device := registrytest.File("data/null", "")
	device.Typeflag, device.Devmajor, device.Devminor = '3', 1, 3
	owned := registrytest.File("data/owned", "o")
	owned.Uid, owned.Gid = 100_000, 4_000_000_000
	deep := strings.Repeat("a-long-name-for-one-part-of-a-path/", 57) + "f" // near the limit
	sparse := registrytest.File("data/zeros", strings.Repeat("\x00", 5<<20))
	root := made(t, openStore(t, t.TempDir(), Options{}), "", ping, hard, device, owned, sparse, registrytest.File(deep, "deep"))

	st := func(name string) *syscall.Stat_t {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t)
	}
	if a, b := st("bin/ping"), st("bin/ping2"); a.Mode&0o7777 != 0o4755 || a.Ino != b.Ino || a.Nlink != 2 || a.Mtim.Sec != 1_600_000_000 {
		t.Errorf("ping: %+v", a)
	}
	for attr, want := range map[string]string{"security.capability": capability, "user.note": strings.Repeat("n", 3000)} {
		buf := make([]byte, 4096)
		if n, err := unix.Lgetxattr(root+"/bin/ping", attr, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("%s: %d bytes, %v", attr, n, err)
		}
	}
	if d := st("data/null"); d.Mode&unix.S_IFMT != unix.S_IFCHR || d.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("the device: %+v", d)
	}
	if o := st("data/owned"); o.Uid != 100_000 || o.Gid != 4_000_000_000 {
		t.Errorf("the owner: %d:%d", o.Uid, o.Gid)
	}
	if readFile(t, root+"/"+deep) != "deep" || len(readFile(t, root+"/data/zeros")) != 5<<20 {
		t.Error("the deep file or the zeros are not as they were")
	}
}
