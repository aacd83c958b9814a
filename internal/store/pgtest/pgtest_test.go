package pgtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// childEnv makes the test binary play a test run that waits to be killed.
const childEnv = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		var s Server
		err := s.start()
		fmt.Println(s.dir, s.process.Pid, err)
		select {}
	}
	os.Exit(m.Run())
}

func TestFreshDatabases(t *testing.T) {
	var s Server
	t.Cleanup(s.Stop) // after the databases are dropped
	for range 2 {
		conn, err := pgx.Connect(context.Background(), s.Database(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		if _, err := conn.Exec(context.Background(), "CREATE TABLE same_name (n BIGINT)"); err != nil {
			t.Errorf("the second database is not a fresh one: %v", err)
		}
	}
}

func TestStopEndsServerAndRemovesFiles(t *testing.T) {
	var s Server
	t.Run("use", func(t *testing.T) { s.Database(t) })
	s.Stop()
	if err := s.process.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the server still runs: %v", err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestKilledTestTakesServerWithIt(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(self)
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	child.Process.Kill() // the checks below notice
	child.Wait()         // it was killed
	var dir, startErr string
	var pid int
	if _, err := fmt.Sscan(strings.TrimSpace(line), &dir, &pid, &startErr); err != nil || startErr != "<nil>" {
		t.Fatalf("the child said %q (%v, %v)", line, err, readErr)
	}
	deadline := time.Now().Add(stopTimeout)
	for running(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL (pid %d) outlived the test binary that started it", pid)
		}
		time.Sleep(10 * time.Millisecond)
	}
	sweep()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the killed run's directory was not swept: %v", err)
	}
}

// running says whether the process exists and is no zombie: whoever inherits an orphan may be slow to reap it.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

func TestNoPostgreSQLNamesThePackage(t *testing.T) {
	if _, err := findIn([]string{t.TempDir()}); err == nil || !strings.Contains(err.Error(), "Debian package postgresql") {
		t.Errorf("got %v", err)
	}
}
