package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount mounts the image read-only and returns the directory. Every caller gets the same mount, which stays until
// Unmount, also over a restart of the server. The files can be executed, but device nodes and setuid bits in it mean
// nothing to the host.
func (s *Store) Mount(ctx context.Context, id string) (rootDir string, err error) {
	if _, err := s.Image(id); err != nil {
		return "", err
	}
	dir := filepath.Join(s.dir, id, mountDir)
	s.mounting.Lock()
	defer s.mounting.Unlock()
	mounted, err := mountedOn(dir)
	if err != nil {
		return "", err
	}
	switch {
	case mounted == nil:
	case mounted.fsType == "erofs" && mounted.readOnly():
		return dir, nil
	default:
		return "", fmt.Errorf("something else is mounted where image %s belongs: %s; unmount it", id, mounted.fsType)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("mounting image %s: %w", id, err)
	}
	if err := MountFile(ctx, s.Path(id), dir); err != nil {
		return "", fmt.Errorf("mounting image %s: %w", id, err)
	}
	return dir, nil
}

// Unmount undoes Mount; no error when the image is not mounted, ErrInUse when something on the host holds it.
func (s *Store) Unmount(_ context.Context, id string) error {
	if !validID(id) {
		return nil
	}
	dir := filepath.Join(s.dir, id, mountDir)
	s.mounting.Lock()
	defer s.mounting.Unlock()
	mounted, err := mountedOn(dir)
	if err != nil || mounted == nil {
		return err
	}
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("unmounting image %s: %w", id, ErrInUse)
	} else if err != nil {
		return fmt.Errorf("unmounting image %s: %w", id, err)
	}
	return nil
}

// MountFile mounts an EROFS file read-only on dir: through a loop device, which every kernel with EROFS can do, and
// where there is none to be had (in many containers) directly, which Linux 6.12 and later can.
func MountFile(ctx context.Context, file, dir string) error {
	loop := tool{
		step: "mounting through a loop device",
		argv: []string{"mount", "-t", "erofs", "-o", "ro,loop,nodev,nosuid", file, dir},
	}.run(ctx)
	if loop == nil || ctx.Err() != nil {
		return loop
	}
	err := unix.Mount(file, dir, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID, "")
	if err != nil {
		return fmt.Errorf("%w; and directly from the file: %w", loop, err)
	}
	return nil
}

// mountPoint is one line of the kernel's mount table.
type mountPoint struct {
	point, fsType, options string
}

func (m mountPoint) readOnly() bool {
	return strings.HasPrefix(m.options+",", "ro,")
}

// mountedOn returns the uppermost mount on exactly dir, nil when there is none.
func mountedOn(dir string) (*mountPoint, error) {
	all, err := mountsBelow(dir)
	if err != nil {
		return nil, err
	}
	var found *mountPoint
	for _, m := range all {
		if m.point == dir {
			found = &m
		}
	}
	return found, nil
}

func readMounts() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads the format of proc_pid_mountinfo(5).
func parseMounts(r io.Reader) ([]mountPoint, error) {
	var all []mountPoint
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		front, back, ok := strings.Cut(lines.Text(), " - ")
		fields, rest := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 6 || len(rest) < 1 {
			return nil, fmt.Errorf("the mount table has a line of another form: %q", lines.Text())
		}
		all = append(all, mountPoint{point: unescape(fields[4]), options: fields[5], fsType: rest[0]})
	}
	return all, lines.Err()
}

// unescape undoes the octal escapes of the mount table, such as \040 for a blank.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
