// Package pgtest runs a real PostgreSQL server of a test binary's own: one server, started when first needed, and a
// fresh database for each test.
//
// The server has its data in a temporary directory, listens only on a unix socket in it, and trusts durability away
// for speed. It dies with the test binary, however that ends, by the kernel's parent-death signal; a directory that a
// killed binary leaves behind is removed by the next one.
//
//	var pg pgtest.Server
//
//	func TestMain(m *testing.M) {
//		code := m.Run()
//		pg.Stop()
//		os.Exit(code)
//	}
//
//	func TestX(t *testing.T) { url := pg.Database(t) … }
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 20 * time.Second
	superuser    = "superserve"
)

// Server is one PostgreSQL server. The zero value is ready and starts on first use.
type Server struct {
	once sync.Once
	err  error

	dir     string // holds the data, the socket and the log
	process *os.Process
	exited  chan struct{} // closed when the server has ended

	mu        sync.Mutex
	databases int
}

// Database makes an empty database (UTF8) and returns its postgres:// URL. It is dropped when the test is over. The
// test fails when PostgreSQL is not installed.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.once.Do(func() { s.err = s.start() })
	if s.err != nil {
		t.Fatalf("starting PostgreSQL for the tests: %v", s.err)
	}
	s.mu.Lock()
	s.databases++
	name := fmt.Sprintf("test_%d", s.databases)
	s.mu.Unlock()
	if err := s.admin("CREATE DATABASE " + name); err != nil {
		t.Fatalf("making a database: %v", err)
	}
	t.Cleanup(func() {
		if err := s.admin("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
			t.Errorf("dropping a test's database: %v", err)
		}
	})
	return s.url(name)
}

// Stop ends the server and removes its files. It does nothing when the server was never started.
func (s *Server) Stop() {
	if s.process == nil {
		return
	}
	s.process.Signal(syscall.SIGINT) //nolint:errcheck // fast shutdown; it fails only when the server is gone
	select {
	case <-s.exited:
	case <-time.After(stopTimeout):
		s.process.Signal(syscall.SIGQUIT) //nolint:errcheck // immediate shutdown
		<-s.exited
	}
	os.RemoveAll(s.dir) //nolint:errcheck // the next run sweeps it
}

func (s *Server) start() error {
	sweep()
	bin, err := findBinaries()
	if err != nil {
		return err
	}
	account, err := unprivileged()
	if err != nil {
		return err
	}
	if s.dir, err = makeDir(account); err != nil {
		return err
	}
	// The locale's collation is deliberately not C, so that a query whose order depends on it shows.
	initdb := s.command(bin, "initdb", account, "-D", s.data(), "-U", superuser, "-A", "trust", "-E", "UTF8",
		"--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync", "--no-instructions")
	if out, err := initdb.CombinedOutput(); err != nil {
		os.RemoveAll(s.dir) //nolint:errcheck // the next run sweeps it
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	if err := s.launch(bin, account); err != nil {
		return err
	}
	if err := s.waitReady(); err != nil {
		log, _ := os.ReadFile(s.log())
		s.Stop()
		return fmt.Errorf("%w; its log:\n%s", err, log)
	}
	return nil
}

func (s *Server) launch(bin string, account *account) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command(bin, "postgres", account, "-D", s.data(), "-c", "listen_addresses=", "-c", "unix_socket_directories="+s.dir,
		"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off", "-c", "shared_buffers=16MB",
		"-c", "max_connections=200", "-c", "deadlock_timeout=100ms")
	cmd.Stdout, cmd.Stderr = log, log
	s.exited = make(chan struct{})
	s.process, err = startTied(cmd, s.exited)
	return err
}

func (s *Server) waitReady() error {
	deadline := time.After(startTimeout)
	for {
		err := s.admin("SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return errors.New("the server ended at once")
		case <-deadline:
			return fmt.Errorf("the server was not ready after %v: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// admin runs one statement outside any test's database.
func (s *Server) admin(statement string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

func (s *Server) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return strings.Replace(u.String(), "@/", "@localhost/", 1) // pgx wants a host; the query's one replaces it
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }
func (s *Server) log() string  { return filepath.Join(s.dir, "log") }

func (s *Server) command(bin, name string, account *account, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = s.dir // the test's own may be closed to the account
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "HOME=" + s.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if account != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: account.uid, Gid: account.gid}
	}
	return cmd
}
